/* System calls that fail, or a clock that is wrong, as variables say; for LD_PRELOAD.
 *
 * SHIM_FLOCK=errno      every flock fails
 * SHIM_LINK=errno       every link fails
 * SHIM_FSYNC_DIR=errno  fsync of a folder fails
 * SHIM_MMAP=errno       mapping a file fails
 * SHIM_CLOSE=text       close of a file that was written, and whose path holds the text, fails with ENOSPC
 * SHIM_UNLINK=text      removing a path whose last name is the text fails with EBUSY
 * SHIM_THREADS=n        only n threads can be started
 * SHIM_CLOCK=seconds    the clock is ahead by so much
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The variable's number as errno; 0 if it is not set. */
static int fails(const char *variable) {
    const char *text = getenv(variable);
    if (text) errno = atoi(text);
    return text != NULL;
}

int flock(int fd, int operation) { return fails("SHIM_FLOCK") ? -1 : REAL(flock)(fd, operation); }

int link(const char *from, const char *to) { return fails("SHIM_LINK") ? -1 : REAL(link)(from, to); }

int linkat(int a, const char *from, int b, const char *to, int flags) {
    return fails("SHIM_LINK") ? -1 : REAL(linkat)(a, from, b, to, flags);
}

int fsync(int fd) {
    struct stat stat;
    int is_folder = fstat(fd, &stat) == 0 && S_ISDIR(stat.st_mode);
    return is_folder && fails("SHIM_FSYNC_DIR") ? -1 : REAL(fsync)(fd);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fd >= 0 && (flags & MAP_SHARED) && fails("SHIM_MMAP")) return MAP_FAILED;
    return REAL(mmap)(address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap(address, length, protection, flags, fd, offset);
}

int close(int fd) {
    const char *text = getenv("SHIM_CLOSE");
    char link[64], path[4096];
    int flags = text ? fcntl(fd, F_GETFL) : 0;
    if (text && flags >= 0 && (flags & O_ACCMODE) != O_RDONLY) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length < 0 ? 0 : length] = 0;
        if (strstr(path, text)) {
            REAL(close)(fd);
            errno = ENOSPC;
            return -1;
        }
    }
    return REAL(close)(fd);
}

static int stays(const char *path) {
    const char *text = getenv("SHIM_UNLINK"), *slash = strrchr(path, '/');
    if (!text || strcmp(slash ? slash + 1 : path, text)) return 0;
    errno = EBUSY;
    return 1;
}

int unlink(const char *path) { return stays(path) ? -1 : REAL(unlink)(path); }

int unlinkat(int folder, const char *path, int flags) {
    return stays(path) ? -1 : REAL(unlinkat)(folder, path, flags);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument) {
    static int started;
    const char *text = getenv("SHIM_THREADS");
    if (text && __atomic_fetch_add(&started, 1, __ATOMIC_SEQ_CST) >= atoi(text)) return EAGAIN;
    return REAL(pthread_create)(thread, attributes, start, argument);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int status = REAL(clock_gettime)(clock, time);
    const char *text = getenv("SHIM_CLOCK");
    if (text && status == 0 && clock == CLOCK_REALTIME) time->tv_sec += atol(text);
    return status;
}
