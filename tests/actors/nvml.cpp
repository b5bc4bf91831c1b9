// Stands in for the driver's library: four devices, of which 2 tells nothing and 3 has a UUID that is known.
#include <cstring>

struct Memory {
    unsigned long long total, free, used;
};

static int devices[4] = {0, 1, 2, 3};

extern "C" {
int nvmlInit_v2() { return 0; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void** handle) {
    if (index > 3) return 2;
    *handle = &devices[index];
    return 0;
}

int nvmlDeviceGetHandleByUUID(const char* uuid, void** handle) {
    if (std::strcmp(uuid, "GPU-3")) return 6;
    *handle = &devices[3];
    return 0;
}

int nvmlDeviceGetMemoryInfo(void* handle, Memory* memory) {
    int index = *static_cast<int*>(handle);
    if (index == 2) return 999;
    *memory = {80ull << 30, (70ull << 30) - index, (10ull << 30) + index};
    return 0;
}
}
