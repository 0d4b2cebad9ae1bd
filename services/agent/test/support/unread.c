/* Has an inotify descriptor with events that it never reads, and says all the while that it has: "intact". */
#include <fcntl.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

int main(void) {
    int notify = inotify_init1(IN_CLOEXEC);
    if (notify < 0 || inotify_add_watch(notify, "/tmp", IN_CREATE) < 0) return 1;
    int file = open("/tmp/new", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (file < 0) return 2;
    close(file);
    for (;; usleep(100000)) {
        puts("intact");
        fflush(stdout);
    }
}
