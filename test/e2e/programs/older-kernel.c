// Loaded before the C library (LD_PRELOAD): gives a program a kernel whose userfaultfd cannot note writes asynchronously
// (before Linux 6.7), or, with OLDER_KERNEL=none in its environment, one without userfaultfd. The addon makes its system
// calls through the function syscall(3).
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#define UFFDIO_API 0xc018aa3f
#define UFFD_FEATURE_WP_ASYNC (1ull << 15)

typedef long (*function)(long, long, long, long, long, long, long);

long syscall(long number, ...) {
    static function real;
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (real == NULL) {
        void *found = dlsym(RTLD_NEXT, "syscall");
        memcpy(&real, &found, sizeof real);
    }
    const char *kind = getenv("OLDER_KERNEL");
    if (number == SYS_userfaultfd && kind != NULL && strcmp(kind, "none") == 0) {
        errno = ENOSYS;
        return -1;
    }
    if (number == SYS_ioctl && (uint32_t)a[1] == UFFDIO_API) {
        uint64_t features;
        memcpy(&features, (const char *)a[2] + 8, sizeof features);
        if (features & UFFD_FEATURE_WP_ASYNC) {
            errno = EINVAL;
            return -1;
        }
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
