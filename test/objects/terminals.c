// Pseudo terminals: settings, size, what was typed and printed, and whose session they belong to.
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "support/object.h"

static char text[8192];

static int open_master(int flags) {
    int master = MUST(posix_openpt(O_RDWR | O_NOCTTY | flags));
    MUST(unlockpt(master));
    return master;
}

static int open_slave(int master, int flags) {
    char name[64];
    MUST_BE_ZERO(ptsname_r(master, name, sizeof name));
    return MUST(open(name, O_NOCTTY | flags));
}

static void set_flags(int fd, tcflag_t clear_local, tcflag_t clear_output) {
    struct termios settings;
    MUST(tcgetattr(fd, &settings));
    settings.c_lflag &= ~clear_local;
    settings.c_oflag &= ~clear_output;
    MUST(tcsetattr(fd, TCSANOW, &settings));
}

static void type(int fd, const char *what) {
    CHECK(write(fd, what, strlen(what)) == (ssize_t)strlen(what), "write: %s", strerror(errno));
}

static void check_read(int fd, const char *want, const char *what) {
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    CHECK(poll(&poller, 1, 2000) == 1, "%s: nothing to read", what);
    ssize_t length = read(fd, text, sizeof text - 1);
    CHECK(length >= 0, "%s: read: %s", what, strerror(errno));
    text[length] = 0;
    CHECK(strcmp(text, want) == 0, "%s: it reads \"%s\", want \"%s\"", what, text, want);
}

static void check_empty(int fd, const char *what) {
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    CHECK_EQUAL(poll(&poller, 1, 50), 0, what);
}

/// Lines that were typed, one not finished; output that nobody has read; settings and size.
static void lines(void) {
    int master = open_master(0), slave = open_slave(master, O_RDWR);
    set_flags(slave, ECHO, ONLCR);
    struct termios before, now;
    MUST(tcgetattr(slave, &before));
    before.c_cc[VINTR] = 7;
    cfsetospeed(&before, B9600);
    MUST(tcsetattr(slave, TCSANOW, &before));
    struct winsize size = {.ws_row = 33, .ws_col = 99, .ws_xpixel = 5, .ws_ypixel = 6};
    MUST(ioctl(master, TIOCSWINSZ, &size));
    type(master, "one\ntwo\nthree\x04" "fo");
    type(slave, "printed\nmore");
    object_sleep_ms(20);
    object_pause();
    SABOTAGE(size.ws_row = 1; MUST(ioctl(master, TIOCSWINSZ, &size)));
    MUST(tcgetattr(slave, &now));
    CHECK_EQUAL(now.c_iflag, before.c_iflag, "input settings");
    CHECK_EQUAL(now.c_oflag, before.c_oflag, "output settings");
    CHECK_EQUAL(now.c_cflag, before.c_cflag, "control settings");
    CHECK_EQUAL(now.c_lflag, before.c_lflag, "local settings");
    CHECK(memcmp(now.c_cc, before.c_cc, sizeof now.c_cc) == 0, "the special letters differ");
    CHECK_EQUAL(cfgetospeed(&now), B9600, "speed");
    MUST(ioctl(slave, TIOCGWINSZ, &size));
    CHECK(size.ws_row == 33 && size.ws_col == 99 && size.ws_xpixel == 5, "the size differs");
    check_read(master, "printed\nmore", "the master");
    check_read(slave, "one\n", "the first line");
    check_read(slave, "two\n", "the second line");
    check_read(slave, "three", "a line without its end");
    check_empty(slave, "the rest");
    type(master, "ur\n");
    check_read(slave, "four\n", "a line begun before");
    check_empty(master, "the master");
}

/// Raw, with bytes that would mean something; more than one pair, flags, a second slave.
static void raw(void) {
    int others[3], master = open_master(O_NONBLOCK);
    for (int i = 0; i < 3; i++) {
        others[i] = open_master(0);
    }
    close(others[1]);
    int slave = open_slave(master, O_RDONLY | O_NONBLOCK), writer = open_slave(master, O_WRONLY);
    struct termios settings;
    MUST(tcgetattr(slave, &settings));
    cfmakeraw(&settings);
    MUST(tcsetattr(slave, TCSANOW, &settings));
    char names[2][64], now[64];
    MUST_BE_ZERO(ptsname_r(master, names[0], 64));
    MUST_BE_ZERO(ptsname_r(others[2], names[1], 64));
    type(master, "\x03\x04\r\n\x11\x13\x7f.");
    type(writer, "a\nb\r\n");
    object_sleep_ms(20);
    object_pause();
    SABOTAGE(CHECK(read(slave, text, 1) == 1, "read"));
    MUST_BE_ZERO(ptsname_r(master, now, sizeof now));
    CHECK(strcmp(now, names[0]) == 0, "the name is %s, was %s", now, names[0]);
    MUST_BE_ZERO(ptsname_r(others[2], now, sizeof now));
    CHECK(strcmp(now, names[1]) == 0, "the last name is %s, was %s", now, names[1]);
    check_read(slave, "\x03\x04\r\n\x11\x13\x7f.", "the slave");
    check_read(master, "a\nb\r\n", "the master");
    CHECK(read(master, text, 1) < 0 && errno == EAGAIN, "more came");
    CHECK(read(slave, text, 1) < 0 && errno == EAGAIN, "more was there");
    CHECK(write(slave, "x", 1) < 0 && errno == EBADF, "the reader writes");
    type(writer, "talk");
    check_read(master, "talk", "afterwards");
}

/// A master whose slave nobody has opened yet, one whose slave was closed, and a slave alone.
static void halves(void) {
    int fresh = open_master(0), closed = open_master(0), gone = open_master(0);
    close(open_slave(closed, O_RDWR));
    int slave = open_slave(gone, O_RDWR);
    close(gone);
    int locked = MUST(posix_openpt(O_RDWR | O_NOCTTY));
    char name[64];
    MUST_BE_ZERO(ptsname_r(locked, name, sizeof name));
    object_pause();
    SABOTAGE(close(slave));
    struct pollfd pollers[] = {{fresh, POLLIN, 0}, {closed, POLLIN, 0}, {slave, POLLIN, 0}};
    poll(pollers, 3, 0);
    CHECK_EQUAL(pollers[0].revents & POLLHUP, 0, "hang-up of a fresh one");
    CHECK_EQUAL(pollers[1].revents & POLLHUP, POLLHUP, "hang-up where the slave was closed");
    CHECK_EQUAL(read(slave, text, 1), 0, "reading from a slave alone");
    CHECK(write(slave, "x", 1) < 0 && errno == EIO, "a slave alone can be written to");
    CHECK(open(name, O_RDWR | O_NOCTTY) < 0 && errno == EIO, "the locked one is open");
    MUST(unlockpt(locked));
    int now = MUST(open(name, O_RDWR | O_NOCTTY));
    set_flags(now, ECHO, OPOST);
    type(now, "z");
    check_read(locked, "z", "the one that was locked");
    int late = open_slave(fresh, O_RDWR);
    set_flags(late, ECHO, OPOST);
    type(late, "y");
    check_read(fresh, "y", "the fresh one");
}

/// Packet mode: each read of the master begins with a byte about its kind.
static void packets(void) {
    int master = open_master(0), slave = open_slave(master, O_RDWR), on = 1;
    set_flags(slave, ECHO, OPOST);
    MUST(ioctl(master, TIOCPKT, &on));
    CHECK_EQUAL(fchmod(slave, 0622), 0, "fchmod");
    CHECK_EQUAL(fchown(slave, 12, 34), 0, "fchown");
    type(slave, "data");
    object_sleep_ms(20);
    object_pause();
    SABOTAGE(on = 0; MUST(ioctl(master, TIOCPKT, &on)));
    CHECK_EQUAL(read(master, text, sizeof text), 5, "length of a packet");
    CHECK(memcmp(text, "\0data", 5) == 0, "it is another packet");
    struct stat status;
    MUST(fstat(slave, &status));
    CHECK_EQUAL(status.st_mode, S_IFCHR | 0622, "mode");
    CHECK_EQUAL(status.st_uid, 12, "owner");
}

/// A session with its terminal: the leader, a foreground group and a background process.
static int the_master, the_slave, the_tty;

static void member(void *argument) {
    if (argument != NULL) {
        MUST(setpgid(0, 0));
        MUST(tcsetpgrp(the_slave, getpid()));
    }
    object_child_wait();
    CHECK_EQUAL(MUST(tcgetsid(the_slave)), getppid(), "session of the terminal");
    CHECK_EQUAL(tcgetpgrp(the_slave) == getpid(), argument != NULL, "in the foreground");
    close(MUST(open("/dev/tty", O_RDWR)));
}

static void leader(void *argument) {
    (void)argument;
    MUST(setsid());
    MUST(ioctl(the_slave, TIOCSCTTY, 0));
    the_tty = MUST(open("/dev/tty", O_RDWR));
    close(the_master);
    MUST(signal(SIGTTOU, SIG_IGN) == SIG_ERR ? -1 : 0);
    MUST(signal(SIGHUP, SIG_IGN) == SIG_ERR ? -1 : 0);
    object_fork(member, NULL);
    pid_t front = object_fork(member, &the_slave);
    object_child_wait();
    SABOTAGE(MUST(tcsetpgrp(the_slave, getpgrp())));
    CHECK_EQUAL(MUST(tcgetsid(the_tty)), getpid(), "session of the terminal");
    CHECK_EQUAL(MUST(tcgetpgrp(the_slave)), front, "foreground group");
    type(the_tty, "from /dev/tty");
    object_join_all();
}

static void session(void) {
    the_master = open_master(O_CLOEXEC);
    the_slave = open_slave(the_master, O_RDWR);
    set_flags(the_slave, ECHO, OPOST);
    object_fork(leader, NULL);
    close(the_slave);
    object_pause();
    object_join_all();
    check_read(the_master, "from /dev/tty", "the master");
}

/// Whether something written to it would be taken.
static bool flows(int fd) {
    struct pollfd poller = {.fd = fd, .events = POLLOUT};
    poll(&poller, 1, 0);
    return (poller.revents & POLLOUT) != 0;
}

/// Output held by tcflow(3) on either side, and by the letter for it; with and without something printed before.
static void held(void) {
    int masters[4], slaves[4];
    for (int i = 0; i < 4; i++) {
        masters[i] = open_master(0);
        slaves[i] = open_slave(masters[i], O_RDWR | O_NONBLOCK);
        set_flags(slaves[i], ECHO, OPOST);
        if (i < 3) {
            type(slaves[i], "before");
            type(masters[i], "line\n");
        }
    }
    object_sleep_ms(20);
    MUST_BE_ZERO(tcflow(slaves[0], TCOOFF));
    type(masters[1], "\x13");
    MUST_BE_ZERO(tcflow(masters[2], TCOOFF));
    MUST_BE_ZERO(tcflow(slaves[3], TCOOFF));
    object_sleep_ms(20);
    object_pause();
    SABOTAGE(MUST_BE_ZERO(tcflow(slaves[0], TCOON)));
    for (int i = 0; i < 4; i++) {
        CHECK_EQUAL(flows(slaves[i]), i == 2, "output of a slave");
        CHECK_EQUAL(flows(masters[i]), i != 2, "output of a master");
    }
    MUST_BE_ZERO(tcflow(slaves[1], TCOON));
    CHECK_EQUAL(flows(slaves[1]), false, "what a letter has stopped, after tcflow");
    type(masters[1], "\x11");
    MUST_BE_ZERO(tcflow(slaves[0], TCOON));
    MUST_BE_ZERO(tcflow(masters[2], TCOON));
    MUST_BE_ZERO(tcflow(slaves[3], TCOON));
    object_sleep_ms(20);
    for (int i = 0; i < 4; i++) {
        if (i < 3) check_read(masters[i], "before", "what was printed before");
        type(slaves[i], "after");
        check_read(masters[i], "after", "the master");
        if (i < 3) check_read(slaves[i], "line\n", "the slave");
        type(masters[i], "more\n");
        check_read(slaves[i], "more\n", "the slave afterwards");
    }
}

static const struct object_kind kinds[] = {
    {"lines", lines},     {"raw", raw},         {"halves", halves},
    {"packets", packets}, {"session", session}, {"held", held},
};

int main(int argc, char **argv) {
    object_run_kinds(kinds, COUNT_OF(kinds), argc, argv);
}
