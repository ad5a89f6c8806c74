/* Simulates faults for one process. Files in the directory WEATHER control them:
     fail-sync   fsync and fdatasync fail once for each byte of this file
     late-fail   fsync and fdatasync write the data and then fail, while this file exists
     hang-sync   fsync and fdatasync do not return while this file exists
     hang-policy opening a file with the name policy.toml does not return while this file exists
     clock       the number of seconds to add to the time of day
   The tests build this library and preload it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int weather(const char *name, char *path, size_t size) {
    const char *directory = getenv("WEATHER");
    return directory && snprintf(path, size, "%s/%s", directory, name) < (int)size;
}

/* Waits while the file exists. */
static void hang(const char *name) {
    char path[4096];
    if (!weather(name, path, sizeof path)) return;
    while (access(path, F_OK) == 0) usleep(20000);
}

static int sync_fails(void) {
    char path[4096];
    struct stat file;
    if (!weather("fail-sync", path, sizeof path) || stat(path, &file) != 0 || file.st_size == 0) return 0;
    if (truncate(path, file.st_size - 1) != 0) return 0;
    errno = EIO;
    return 1;
}

/* Whether a sync that has succeeded is reported as failed. */
static int fails_late(void) {
    char path[4096];
    if (!weather("late-fail", path, sizeof path) || access(path, F_OK) != 0) return 0;
    errno = EIO;
    return 1;
}

static int synced(int outcome) { return outcome == 0 && fails_late() ? -1 : outcome; }

int fsync(int fd) { hang("hang-sync"); return sync_fails() ? -1 : synced((int)syscall(SYS_fsync, fd)); }

int fdatasync(int fd) { hang("hang-sync"); return sync_fails() ? -1 : synced((int)syscall(SYS_fdatasync, fd)); }

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = va_arg(more, mode_t);
    va_end(more);
    if (strstr(path, "/policy.toml")) hang("hang-policy");
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static long ahead(void) {
    char path[4096], text[32] = "";
    if (!weather("clock", path, sizeof path)) return 0;
    int file = open(path, O_RDONLY);
    if (file < 0) return 0;
    long length = read(file, text, sizeof text - 1);
    close(file);
    return length > 0 ? atol(text) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int outcome = (int)syscall(SYS_clock_gettime, clock, now);
    if (outcome == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return outcome;
}
