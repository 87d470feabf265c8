/* Preloaded below Python: sees every system call that writes under a folder, records it, and makes
 * the n-th one fail, or kills the process before or after it. Armed by arm(), from Python. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { RECORD, KILL_BEFORE, KILL_AFTER, FAIL_ONCE, FAIL_FROM_THEN_ON };

static char folder[PATH_MAX];
static long count, at;
static int how, error, record = -1, halved;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void arm(const char *under, long nth, int fault, int number, int log) {
    snprintf(folder, sizeof folder, "%s", under);
    count = 0, at = nth, how = fault, error = number, record = log;
    halved = 0;
}

long disarm(void) {
    folder[0] = 0;
    return count;
}

/* The absolute path of a name, relative to a directory; not resolved, as names are what counts. */
static void absolute(int directory, const char *name, char *out) {
    char link[64], base[PATH_MAX] = "";
    if (name[0] == '/') {
        snprintf(out, PATH_MAX, "%s", name);
        return;
    }
    if (directory == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, base, sizeof base - 1);
        base[length > 0 ? length : 0] = 0;
    }
    if (name[0])
        snprintf(out, PATH_MAX, "%.2000s/%.2000s", base, name);
    else
        snprintf(out, PATH_MAX, "%s", base);
}

static int inside(const char *path) {
    size_t length = strlen(folder);
    return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

/* One record: call, two paths, two numbers, and so many bytes of data after the line. */
static void note(const char *call, const char *a, const char *b, long x, long y, const void *data,
                 size_t size) {
    if (record < 0) return;
    char line[3 * PATH_MAX];
    int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%ld\t%ld\t%zu\n", call, a, b, x, y, size);
    struct iovec parts[] = {{line, (size_t)length}, {(void *)data, size}};
    if (REAL(writev)(record, parts, size ? 2 : 1) < 0) abort();
}

static void die(void) {
    kill(getpid(), SIGKILL);
    pause();
}

/* Counts a call; whether it has to fail. */
static int faulty(const char *path, const char *other) {
    if (!inside(path) && !(other && inside(other))) return 0;
    long now = ++count;
    if (now == at && how == KILL_BEFORE) die();
    if ((now == at && how == FAIL_ONCE) || (now >= at && how == FAIL_FROM_THEN_ON)) {
        errno = error;
        return 1;
    }
    return 0;
}

static void after(const char *path, const char *other) {
    if ((inside(path) || (other && inside(other))) && count == at && how == KILL_AFTER) die();
}

#define DONE(call, a, b, x, y, data, size)                    \
    do {                                                      \
        int saved = errno;                                    \
        if (result >= 0 && (inside(a) || inside(b)))          \
            note(call, a, b, (long)(x), (long)(y), data, size); \
        after(a, b);                                          \
        errno = saved;                                        \
    } while (0)

/* -- open */

static int writes(int flags) {
    return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
}

#define OPEN(name, directory, ...)                                         \
    mode_t mode = 0;                                                       \
    if (flags & O_CREAT) {                                                 \
        va_list list;                                                      \
        va_start(list, flags);                                             \
        mode = va_arg(list, mode_t);                                       \
        va_end(list);                                                      \
    }                                                                      \
    if (!writes(flags)) return REAL(name)(__VA_ARGS__, flags, mode);       \
    char a[PATH_MAX];                                                      \
    absolute(directory, path, a);                                          \
    if (faulty(a, NULL)) return -1;                                        \
    int result = REAL(name)(__VA_ARGS__, flags, mode);                     \
    DONE("open", a, "", flags, mode, NULL, 0);                             \
    return result;

int open(const char *path, int flags, ...) { OPEN(open, AT_FDCWD, path) }
int open64(const char *path, int flags, ...) { OPEN(open64, AT_FDCWD, path) }
int openat(int directory, const char *path, int flags, ...) {
    OPEN(openat, directory, directory, path)
}
int openat64(int directory, const char *path, int flags, ...) {
    OPEN(openat64, directory, directory, path)
}
int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* -- by handle */

#define HANDLE                 \
    char a[PATH_MAX] = "";     \
    if (folder[0]) absolute(handle, "", a);

ssize_t write(int handle, const void *data, size_t size) {
    HANDLE
    if (faulty(a, NULL)) {
        /* On a full disk half of the data gets there, and the next call has to say so. */
        size_t some = errno == ENOSPC && how == FAIL_ONCE && !halved ? size / 2 : 0;
        if (!some) return -1;
        halved = 1;
        off_t offset = lseek(handle, 0, SEEK_CUR);
        ssize_t result = REAL(write)(handle, data, some);
        if (result >= 0) at = count + 1;
        DONE("write", a, "", offset, 0, data, (size_t)result);
        return result;
    }
    off_t offset = inside(a) ? lseek(handle, 0, SEEK_CUR) : 0;
    ssize_t result = REAL(write)(handle, data, size);
    DONE("write", a, "", offset, 0, data, result > 0 ? (size_t)result : 0);
    return result;
}

ssize_t pwrite64(int handle, const void *data, size_t size, off64_t offset) {
    HANDLE
    if (faulty(a, NULL)) return -1;
    ssize_t result = REAL(pwrite64)(handle, data, size, offset);
    DONE("write", a, "", offset, 0, data, result > 0 ? (size_t)result : 0);
    return result;
}
ssize_t pwrite(int handle, const void *data, size_t size, off_t offset) {
    return pwrite64(handle, data, size, offset);
}

ssize_t writev(int handle, const struct iovec *parts, int number) {
    HANDLE
    if (!inside(a)) return REAL(writev)(handle, parts, number);
    ssize_t total = 0;
    for (int i = 0; i < number; i++) {
        ssize_t result = write(handle, parts[i].iov_base, parts[i].iov_len);
        if (result < 0) return total ? total : -1;
        total += result;
    }
    return total;
}

#define BY_HANDLE(call, name, types, values)                  \
    int name types {                                          \
        HANDLE                                                \
        if (faulty(a, NULL)) return -1;                       \
        int result = REAL(name) values;                       \
        DONE(call, a, "", 0, 0, NULL, 0);                     \
        return result;                                        \
    }
BY_HANDLE("fsync", fsync, (int handle), (handle))
BY_HANDLE("fsync", fdatasync, (int handle), (handle))
BY_HANDLE("chown", fchown, (int handle, uid_t user, gid_t group), (handle, user, group))
BY_HANDLE("utimes", futimens, (int handle, const struct timespec times[2]), (handle, times))

int fchmod(int handle, mode_t mode) {
    HANDLE
    if (faulty(a, NULL)) return -1;
    int result = REAL(fchmod)(handle, mode);
    DONE("chmod", a, "", mode, 0, NULL, 0);
    return result;
}

int ftruncate64(int handle, off64_t size) {
    HANDLE
    if (faulty(a, NULL)) return -1;
    int result = REAL(ftruncate64)(handle, size);
    DONE("truncate", a, "", size, 0, NULL, 0);
    return result;
}
int ftruncate(int handle, off_t size) { return ftruncate64(handle, size); }

int ioctl(int handle, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (request != 0x40049409) return REAL(ioctl)(handle, request, argument); /* FICLONE */
    HANDLE
    if (faulty(a, NULL)) return -1;
    int result = REAL(ioctl)(handle, request, argument);
    DONE("clone", a, "", 0, 0, NULL, 0);
    return result;
}

ssize_t copy_file_range(int from, off64_t *x, int handle, off64_t *y, size_t size, unsigned flags) {
    HANDLE
    if (inside(a)) { /* nothing here needs it: Python then falls back to write, which is seen */
        errno = ENOSYS;
        return -1;
    }
    return REAL(copy_file_range)(from, x, handle, y, size, flags);
}

ssize_t sendfile64(int handle, int from, off64_t *offset, size_t size) {
    ssize_t (*real)(int, int, off64_t *, size_t) = dlsym(RTLD_NEXT, "sendfile64");
    HANDLE
    if (inside(a)) {
        errno = ENOSYS;
        return -1;
    }
    return real(handle, from, offset, size);
}
ssize_t sendfile(int handle, int from, off_t *offset, size_t size) {
    return sendfile64(handle, from, offset, size);
}

/* -- by name */

#define BY_NAME(call, name, types, directory, x, values)      \
    int name types {                                          \
        char a[PATH_MAX];                                     \
        absolute(directory, path, a);                         \
        if (faulty(a, NULL)) return -1;                       \
        int result = REAL(name) values;                       \
        DONE(call, a, "", x, 0, NULL, 0);                     \
        return result;                                        \
    }
BY_NAME("mkdir", mkdir, (const char *path, mode_t mode), AT_FDCWD, mode, (path, mode))
BY_NAME("mkdir", mkdirat, (int directory, const char *path, mode_t mode), directory, mode,
        (directory, path, mode))
BY_NAME("unlink", rmdir, (const char *path), AT_FDCWD, 0, (path))
BY_NAME("unlink", unlink, (const char *path), AT_FDCWD, 0, (path))
BY_NAME("unlink", unlinkat, (int directory, const char *path, int flags), directory, 0,
        (directory, path, flags))
BY_NAME("chmod", chmod, (const char *path, mode_t mode), AT_FDCWD, mode, (path, mode))
BY_NAME("chmod", fchmodat, (int directory, const char *path, mode_t mode, int flags), directory,
        mode, (directory, path, mode, flags))
BY_NAME("chown", chown, (const char *path, uid_t user, gid_t group), AT_FDCWD, 0,
        (path, user, group))
BY_NAME("chown", lchown, (const char *path, uid_t user, gid_t group), AT_FDCWD, 0,
        (path, user, group))
BY_NAME("utimes", utimensat,
        (int directory, const char *path, const struct timespec times[2], int flags), directory, 0,
        (directory, path, times, flags))
BY_NAME("xattr", setxattr,
        (const char *path, const char *name, const void *value, size_t size, int flags), AT_FDCWD, 0,
        (path, name, value, size, flags))

#define TWO_NAMES(call, name, types, one, from, two, to, values) \
    int name types {                                          \
        char a[PATH_MAX], b[PATH_MAX];                        \
        absolute(one, from, a);                               \
        absolute(two, to, b);                                 \
        if (faulty(a, b)) return -1;                          \
        int result = REAL(name) values;                       \
        DONE(call, a, b, 0, 0, NULL, 0);                      \
        return result;                                        \
    }
TWO_NAMES("rename", rename, (const char *from, const char *to), AT_FDCWD, from, AT_FDCWD, to,
          (from, to))
TWO_NAMES("rename", renameat, (int one, const char *from, int two, const char *to), one, from, two,
          to, (one, from, two, to))
TWO_NAMES("rename", renameat2, (int one, const char *from, int two, const char *to, unsigned flags),
          one, from, two, to, (one, from, two, to, flags))
TWO_NAMES("link", link, (const char *from, const char *to), AT_FDCWD, from, AT_FDCWD, to,
          (from, to))
TWO_NAMES("link", linkat, (int one, const char *from, int two, const char *to, int flags), one, from,
          two, to, (one, from, two, to, flags))

/* The text of a link is no path that is touched. */
#define SYMLINK(name, types, directory, values)               \
    int name types {                                          \
        char a[PATH_MAX];                                     \
        absolute(directory, to, a);                           \
        if (faulty(a, NULL)) return -1;                       \
        int result = REAL(name) values;                       \
        DONE("symlink", a, "", 0, 0, text, strlen(text));     \
        return result;                                        \
    }
SYMLINK(symlink, (const char *text, const char *to), AT_FDCWD, (text, to))
SYMLINK(symlinkat, (const char *text, int directory, const char *to), directory,
        (text, directory, to))
