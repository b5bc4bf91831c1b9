// Interposed file operations: the n-th below one directory ends the process, is done by half, or fails.
//
// Built by faults.py, loaded with LD_PRELOAD. Every operation below the directory is written to a journal first, so that
// a test can also take away what had not been brought to disk.
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <string>

namespace {

enum Mode { kNone, kExit, kHalf, kFail };

std::string root;
int journal = -1, mode = kNone, error_number = 0;
long victim = -1;
std::atomic<long> counted{0};  // files are synced in several threads

template <typename Function>
Function next(const char* name) {
    return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

ssize_t raw_write(int fd, const void* data, size_t size) {
    static auto call = next<ssize_t (*)(int, const void*, size_t)>("write");
    return call(fd, data, size);
}

std::string absolute(int at, const char* path) {
    if (path[0] == '/') return path;
    char folder[4096];
    std::string link = at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/" + std::to_string(at);
    ssize_t size = readlink(link.c_str(), folder, sizeof folder);
    return size > 0 ? std::string(folder, size) + "/" + path : path;
}

std::string path_of(int fd) {
    char path[4096];
    ssize_t size = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
    return size > 0 ? std::string(path, size) : "";
}

bool below(const std::string& path) { return mode != kNone && !root.empty() && path.rfind(root, 0) == 0; }

// Whether this is the operation that is to fail; ends the process where it is to be the last that is not done.
bool hits(const char* kind, const std::string& path, const std::string& other = "") {
    bool now = ++counted == victim;
    if (now && mode == kExit) _exit(137);
    if (now && mode == kFail) {
        errno = error_number;
        return true;
    }
    std::string line = std::string(kind) + "\t" + path + "\t" + other + "\n";
    raw_write(journal, line.data(), line.size());
    return now;
}

}  // namespace

extern "C" {

void faults_arm(const char* directory, const char* journal_path, int how, long which, int number) {
    root = directory;
    journal = open(journal_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    counted = 0, victim = which, error_number = number;
    mode = how;
}

long faults_counted() { return counted; }

ssize_t write(int fd, const void* data, size_t size) {
    std::string path = path_of(fd);
    if (!below(path)) return raw_write(fd, data, size);
    if (hits("write", path)) {
        if (mode == kFail) return -1;
        raw_write(fd, data, size / 2);
        _exit(137);
    }
    return raw_write(fd, data, size);
}

#define FD_OPERATION(name)                                                     \
    int name(int fd) {                                                         \
        static auto call = next<int (*)(int)>(#name);                          \
        std::string path = path_of(fd);                                        \
        if (below(path) && hits("sync", path)) return mode == kFail ? -1 : (_exit(137), -1); \
        return call(fd);                                                       \
    }
FD_OPERATION(fsync)
FD_OPERATION(fdatasync)

int rename(const char* from, const char* to) {
    static auto call = next<int (*)(const char*, const char*)>("rename");
    std::string source = absolute(AT_FDCWD, from), target = absolute(AT_FDCWD, to);
    if (below(source) && hits("rename", source, target)) return mode == kFail ? -1 : (_exit(137), -1);
    return call(from, to);
}

int mkdir(const char* path, mode_t permissions) {
    static auto call = next<int (*)(const char*, mode_t)>("mkdir");
    std::string whole = absolute(AT_FDCWD, path);
    if (below(whole) && hits("mkdir", whole)) return mode == kFail ? -1 : (_exit(137), -1);
    return call(path, permissions);
}

int unlinkat(int at, const char* path, int flags) {
    static auto call = next<int (*)(int, const char*, int)>("unlinkat");
    std::string whole = absolute(at, path);
    if (below(whole) && hits("unlink", whole)) return mode == kFail ? -1 : (_exit(137), -1);
    return call(at, path, flags);
}

int unlink(const char* path) {
    static auto call = next<int (*)(const char*)>("unlink");
    std::string whole = absolute(AT_FDCWD, path);
    if (below(whole) && hits("unlink", whole)) return mode == kFail ? -1 : (_exit(137), -1);
    return call(path);
}

int rmdir(const char* path) {
    static auto call = next<int (*)(const char*)>("rmdir");
    std::string whole = absolute(AT_FDCWD, path);
    if (below(whole) && hits("unlink", whole)) return mode == kFail ? -1 : (_exit(137), -1);
    return call(path);
}

static int opened(const char* name, int at, const char* path, int flags, mode_t permissions) {
    static auto call = next<int (*)(int, const char*, int, ...)>("openat");
    (void)name;
    if (flags & O_CREAT) {
        std::string whole = absolute(at, path);
        if (below(whole) && hits("create", whole)) return mode == kFail ? -1 : (_exit(137), -1);
    }
    return call(at, path, flags, permissions);
}

#define OPEN(name)                                                             \
    int name(const char* path, int flags, ...) {                               \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode_t permissions = flags & O_CREAT ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                          \
        return opened(#name, AT_FDCWD, path, flags, permissions);              \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                           \
    int name(int at, const char* path, int flags, ...) {                       \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode_t permissions = flags & O_CREAT ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                          \
        return opened(#name, at, path, flags, permissions);                    \
    }
OPENAT(openat64)
}
