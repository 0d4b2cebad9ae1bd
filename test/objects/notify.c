// Watches: inotify on folders, files, removed files, and files reached by another name; events that were not read;
// fanotify.
#include <sys/fanotify.h>
#include <sys/inotify.h>

#include "support/object.h"

static char path[PATH_MAX], other[PATH_MAX], buffer[8192];

static uint32_t read_event(int fd, int wd, const char *name, uint32_t *cookie) {
    static ssize_t length, at;
    if (at >= length) {
        at = 0;
        length = read(fd, buffer, sizeof buffer);
        CHECK(length > 0, "no event of watch %d: %s", wd, strerror(errno));
    }
    struct inotify_event *event = (struct inotify_event *)(buffer + at);
    at += (ssize_t)sizeof *event + event->len;
    CHECK(event->wd == wd, "the watch is %d, want %d (mask 0x%x)", event->wd, wd, event->mask);
    CHECK(strcmp(event->len > 0 ? event->name : "", name) == 0, "the name is %s, want %s",
          event->len > 0 ? event->name : "", name);
    if (cookie != NULL) {
        *cookie = event->cookie;
    }
    return event->mask;
}

static void inotify(void) {
    int fd = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)), shared = dup(fd);
    MUST(mkdir(object_path(path, "folder"), 0777));
    int folder = MUST(inotify_add_watch(fd, path, IN_CREATE | IN_MOVE | IN_DELETE | IN_ONLYDIR));
    close(object_file("gone", O_RDONLY, 10, 1));
    int gone = MUST(inotify_add_watch(fd, object_path(path, "gone"), IN_MODIFY));
    close(object_file("data", O_RDONLY, 10, 1));
    int data = MUST(inotify_add_watch(fd, object_path(path, "data"), IN_MODIFY | IN_ATTRIB));
    MUST(inotify_rm_watch(fd, gone));
    CHECK_EQUAL(read_event(fd, gone, "", NULL), IN_IGNORED, "event of a removed watch");
    int held = object_file("held", O_RDWR, 10, 1);
    int unlinked = MUST(inotify_add_watch(fd, object_path(path, "held"), IN_MODIFY | IN_CLOSE));
    MUST(unlink(path));
    MUST(rename(object_path(path, "data"), object_path(other, "renamed")));
    object_pause();
    SABOTAGE(MUST(inotify_rm_watch(fd, data)); CHECK(read(fd, buffer, sizeof buffer) > 0, "read"));
    errno = 0;
    ssize_t early = read(fd, buffer, sizeof buffer);
    CHECK(early < 0 && errno == EAGAIN, "there are %zd bytes of events: mask 0x%x", early,
          ((struct inotify_event *)buffer)->mask);
    close(object_file("folder/new", O_RDONLY, 10, 1));
    CHECK_EQUAL(read_event(shared, folder, "new", NULL), IN_CREATE, "event in the folder");
    MUST(chmod(object_path(path, "renamed"), 0600));
    CHECK_EQUAL(read_event(fd, data, "", NULL), IN_ATTRIB, "event of the file");
    CHECK(write(held, "x", 1) == 1, "write: %s", strerror(errno));
    CHECK_EQUAL(read_event(fd, unlinked, "", NULL), IN_MODIFY, "event of the removed file");
    uint32_t from, to;
    MUST(rename(object_path(path, "folder/new"), object_path(other, "folder/newer")));
    CHECK_EQUAL(read_event(fd, folder, "new", &from), IN_MOVED_FROM, "first event of a move");
    CHECK_EQUAL(read_event(fd, folder, "newer", &to), IN_MOVED_TO, "second event of a move");
    CHECK_EQUAL(from, to, "cookie");
    int again = MUST(inotify_add_watch(fd, object_path(path, "renamed"), IN_MODIFY));
    CHECK_EQUAL(again, data, "number of a watch that is there");
    int fresh = MUST(inotify_add_watch(fd, object_directory, IN_CREATE));
    CHECK(fresh > unlinked, "a new watch has number %d", fresh);
    CHECK_EQUAL(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK, "flags");
}

/// Marks on a file and, with an ignored mask, on its folder.
static void fanotify(void) {
    int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY | O_LARGEFILE);
    if (fd < 0) {
        object_pause(); // not for us, in a container
        return;
    }
    close(object_file("data", O_RDONLY, 10, 1));
    object_path(path, "data");
    MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_MODIFY | FAN_OPEN, AT_FDCWD, path));
    MUST(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY,
                       FAN_OPEN, AT_FDCWD, path));
    close(object_file("quiet", O_RDONLY, 10, 1));
    object_pause();
    SABOTAGE(MUST(fanotify_mark(fd, FAN_MARK_FLUSH, 0, AT_FDCWD, NULL)));
    CHECK(read(fd, buffer, sizeof buffer) < 0 && errno == EAGAIN, "there are events");
    int file = MUST(open(path, O_WRONLY));
    CHECK(write(file, "x", 1) == 1, "write: %s", strerror(errno));
    close(file);
    CHECK(read(fd, buffer, sizeof buffer) > 0, "no event: %s", strerror(errno));
    struct fanotify_event_metadata *event = (struct fanotify_event_metadata *)buffer;
    CHECK_EQUAL(event->mask, FAN_MODIFY, "event");
    CHECK_EQUAL(event->pid, getpid(), "process of the event");
    struct stat marked, told;
    MUST(fstat(event->fd, &told));
    MUST(stat(path, &marked));
    CHECK_EQUAL(told.st_ino, marked.st_ino, "file of the event");
    close(MUST(open(object_path(path, "quiet"), O_RDWR)));
    CHECK(read(fd, buffer, sizeof buffer) < 0 && errno == EAGAIN, "there are more events");
}

/// Events that nobody has read: they are there afterwards, or the program is told that some were lost.
static void unread(void) {
    int fd = MUST(inotify_init1(IN_CLOEXEC));
    MUST(mkdir(object_path(path, "folder"), 0777));
    int folder = MUST(inotify_add_watch(fd, path, IN_CREATE | IN_ONLYDIR));
    close(object_file("data", O_RDONLY, 10, 1));
    int data = MUST(inotify_add_watch(fd, object_path(path, "data"), IN_ATTRIB));
    close(object_file("folder/early", O_RDONLY, 10, 1));
    MUST(chmod(object_path(path, "data"), 0600));
    object_pause();
    // As if nothing had ever happened.
    SABOTAGE(while (read(fd, buffer, sizeof buffer) <= 0) {}
             MUST(fcntl(fd, F_SETFL, O_NONBLOCK)));
    ssize_t length = read(fd, buffer, sizeof buffer);
    CHECK(length >= (ssize_t)sizeof(struct inotify_event), "no event: %s", strerror(errno));
    struct inotify_event *event = (struct inotify_event *)buffer;
    if (event->wd == -1) {
        CHECK_EQUAL(event->mask, IN_Q_OVERFLOW, "mask of what is told");
        CHECK_EQUAL(length, (ssize_t)sizeof *event, "length of what is told");
    } else {
        CHECK(event->wd == folder && strcmp(event->name, "early") == 0, "watch %d, %s", event->wd,
              event->name);
        event = (struct inotify_event *)(event->name + event->len);
        CHECK_EQUAL(event->wd, data, "watch of the second event");
        CHECK_EQUAL((char *)(event + 1) - buffer, length, "length of both");
    }
    close(object_file("folder/late", O_RDONLY, 10, 1));
    CHECK_EQUAL(read_event(fd, folder, "late", NULL), IN_CREATE, "event in the folder");
    MUST(chmod(object_path(path, "data"), 0644));
    CHECK_EQUAL(read_event(fd, data, "", NULL), IN_ATTRIB, "event of the file");
    CHECK_EQUAL(fcntl(fd, F_GETFL) & O_NONBLOCK, 0, "flags");
}

static const struct object_kind kinds[] = {
    {"inotify", inotify},
    {"fanotify", fanotify},
    {"unread", unread},
};

int main(int argc, char **argv) {
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
