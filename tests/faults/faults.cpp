// Interposed file operations: the n-th below one directory ends the process, is done by half (a write), or fails.
//
// Built by faults.py, loaded with LD_PRELOAD. Every operation below the directory that changes something is written to a
// journal before it is done, and a file that is replaced is kept under another name, so that a test can also take away
// what had not been brought to disk.
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

std::string root, replaced;
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

bool exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

bool below(const std::string& path) { return mode != kNone && !root.empty() && path.rfind(root, 0) == 0; }

// Whether this is the operation that is to go wrong; ends the process where it is to be the first that is not done.
bool counts_down(const std::string& kind) {
    bool now = ++counted == victim;
    if (now && (mode == kExit || (mode == kHalf && kind != "write"))) _exit(137);
    if (now && mode == kFail) errno = error_number;
    return now;
}

void note(const std::string& kind, const std::string& path, const std::string& to = "", const std::string& old = "") {
    std::string line = kind + "\t" + path + "\t" + to + "\t" + old + "\n";
    raw_write(journal, line.data(), line.size());
}

// Whether the operation is to fail.
bool fails(const std::string& kind, const std::string& path) {
    if (counts_down(kind)) return true;
    note(kind, path);
    return false;
}

// Another name of a file that a rename is about to replace; empty where it replaces none.
std::string kept(const std::string& target) {
    static std::atomic<long> number{0};
    std::string name = replaced + "/" + std::to_string(++number);
    return link(target.c_str(), name.c_str()) == 0 ? name : "";
}

// What is written to a file, wherever in it: nothing, the first half or all of it.
template <typename Write>
ssize_t written(int fd, size_t size, Write write_first) {
    std::string path = path_of(fd);
    if (!below(path)) return write_first(size);
    bool now = counts_down("write");
    if (now && mode == kFail) return -1;
    note("write", path);
    if (!now) return write_first(size);
    write_first(size / 2);
    _exit(137);
}

}  // namespace

extern "C" {

void faults_arm(
    const char* directory, const char* journal_path, const char* replaced_directory, int how, long which, int number
) {
    root = directory, replaced = replaced_directory;
    journal = open(journal_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    counted = 0, victim = which, error_number = number;
    mode = how;
}

long faults_counted() { return counted; }

ssize_t write(int fd, const void* data, size_t size) {
    return written(fd, size, [=](size_t first) { return raw_write(fd, data, first); });
}

ssize_t writev(int fd, const iovec* parts, int count) {
    static auto call = next<ssize_t (*)(int, const iovec*, int)>("writev");
    return written(fd, count, [=](size_t first) { return call(fd, parts, first); });
}

#define PWRITE(name)                                                                            \
    ssize_t name(int fd, const void* data, size_t size, off_t at) {                             \
        static auto call = next<ssize_t (*)(int, const void*, size_t, off_t)>(#name);           \
        return written(fd, size, [=](size_t first) { return call(fd, data, first, at); });      \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define FD_OPERATION(name)                                                     \
    int name(int fd) {                                                         \
        static auto call = next<int (*)(int)>(#name);                          \
        std::string path = path_of(fd);                                        \
        if (below(path) && fails("sync", path)) return -1;                     \
        return call(fd);                                                       \
    }
FD_OPERATION(fsync)
FD_OPERATION(fdatasync)

int rename(const char* from, const char* to) {
    static auto call = next<int (*)(const char*, const char*)>("rename");
    std::string source = absolute(AT_FDCWD, from), target = absolute(AT_FDCWD, to);
    if (below(source)) {
        if (counts_down("rename")) return -1;
        note("rename", source, target, kept(target));
    }
    return call(from, to);
}

int mkdir(const char* path, mode_t permissions) {
    static auto call = next<int (*)(const char*, mode_t)>("mkdir");
    std::string whole = absolute(AT_FDCWD, path);
    if (below(whole) && !exists(whole) && fails("mkdir", whole)) return -1;
    return call(path, permissions);
}

int unlinkat(int at, const char* path, int flags) {
    static auto call = next<int (*)(int, const char*, int)>("unlinkat");
    std::string whole = absolute(at, path);
    if (below(whole) && exists(whole) && fails("unlink", whole)) return -1;
    return call(at, path, flags);
}

int unlink(const char* path) {
    static auto call = next<int (*)(const char*)>("unlink");
    std::string whole = absolute(AT_FDCWD, path);
    if (below(whole) && exists(whole) && fails("unlink", whole)) return -1;
    return call(path);
}

int rmdir(const char* path) {
    static auto call = next<int (*)(const char*)>("rmdir");
    std::string whole = absolute(AT_FDCWD, path);
    if (below(whole) && exists(whole) && fails("unlink", whole)) return -1;
    return call(path);
}

static int opened(int at, const char* path, int flags, mode_t permissions) {
    static auto call = next<int (*)(int, const char*, int, ...)>("openat");
    if (flags & (O_CREAT | O_TRUNC)) {
        std::string whole = absolute(at, path);
        if (below(whole) && !exists(whole) && fails("create", whole)) return -1;
        if (below(whole) && exists(whole) && flags & O_TRUNC && fails("truncate", whole)) return -1;
    }
    return call(at, path, flags, permissions);
}

#define OPEN(name)                                                             \
    int name(const char* path, int flags, ...) {                               \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode_t permissions = flags & O_CREAT ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                          \
        return opened(AT_FDCWD, path, flags, permissions);                     \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                           \
    int name(int at, const char* path, int flags, ...) {                       \
        va_list rest;                                                          \
        va_start(rest, flags);                                                 \
        mode_t permissions = flags & O_CREAT ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                          \
        return opened(at, path, flags, permissions);                           \
    }
OPENAT(openat)
OPENAT(openat64)
}
