// A wall clock that an administrator, or a bad time server, sets back and forth: loaded with LD_PRELOAD, it jumps by
// hours at every reading. The monotonic clock is as it is.

#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

namespace {

std::atomic<long> readings{0};
constexpr long kJumps[] = {0, 7200, -7200, 86400, -3, -86400 * 365};  // seconds

void step(timespec* now) { now->tv_sec += kJumps[readings++ % 6]; }

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* now) noexcept {
  const int code = static_cast<int>(syscall(SYS_clock_gettime, clock, now));
  if (code == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) step(now);
  return code;
}

int gettimeofday(timeval* now, void*) noexcept {
  timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  now->tv_sec = found.tv_sec;
  now->tv_usec = found.tv_nsec / 1000;
  return 0;
}

time_t time(time_t* now) noexcept {
  timespec found;
  clock_gettime(CLOCK_REALTIME, &found);
  if (now != nullptr) *now = found.tv_sec;
  return found.tv_sec;
}

}  // extern "C"
