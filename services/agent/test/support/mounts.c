/* Changes files on two tmpfs mounts in every way there is, above all in those that no time of a file tells of, and compares
 * all of them with what it remembers: "intact", or "damaged" and what. Arguments: MiB of a file that is left alone; "still"
 * (nothing else is touched) or "busy". */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define FOLDER "/scratch"
enum { PAGE = 4096, PAGES = 48, SLOTS = 16, LENGTH_MAX = 150000 };
enum kind { NOTHING, FILE_, LINK, FIFO, FOLDER_, KINDS };

/* Files of PAGES pages, each written in a way of its own. */
enum way { MAPPED, FLEETING, IN_FLIGHT, BY_CHILD, BY_CALL, SPARSE, LINKED, WAYS };
static const char *const way_names[] = {"mapped", "fleeting", "in-flight", "by-child", "by-call", "sparse", "linked"};

static uint64_t model[WAYS][PAGES];
static uint64_t *mapped, *linked;
static int ends[2];
static char linked_name[64];
static struct {
    enum kind kind;
    uint32_t seed;
    size_t length;
    mode_t mode;
    int twins; /* a further name */
} slots[SLOTS];
static uint64_t state = 88172645463325252ull;
static size_t still_bytes;

static uint32_t dice(uint32_t sides) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 20) % sides;
}

static void damaged(const char *format, ...) {
    va_list args;
    va_start(args, format);
    printf("damaged ");
    vprintf(format, args);
    printf(" (%m)\n");
    va_end(args);
    exit(1);
}

static const char *path_of(enum way way) {
    static char path[64];
    if (way == LINKED) return linked_name;
    sprintf(path, "%s/%s", way % 2 ? FOLDER : "/dev/shm", way_names[way]);
    return path;
}

static int must_open(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC, 0640);
    if (fd < 0) damaged("open of %s", path);
    return fd;
}

static uint64_t *map_file(int fd) {
    void *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) damaged("mmap");
    return at;
}

static void fill(uint64_t *page, uint64_t value) {
    volatile uint64_t *words = page;
    for (int w = 0; w < PAGE / 8; w++) words[w] = value;
}

static void write_page(int fd, int page, uint64_t value) {
    uint64_t words[PAGE / 8];
    fill(words, value);
    if (pwrite(fd, words, PAGE, (off_t)page * PAGE) != PAGE) damaged("pwrite");
}

/* A mapping that is read first: then nothing tells of a write. */
static void write_through(int fd, int page, uint64_t value) {
    uint64_t *at = map_file(fd);
    volatile uint64_t sum = 0;
    for (int i = 0; i < PAGES; i++) sum += at[i * PAGE / 8];
    close(fd);
    fill(at + page * PAGE / 8, value);
    munmap(at, PAGES * PAGE);
}

static void send_fd(int fd) {
    char space[CMSG_SPACE(sizeof fd)] = {0}, byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    *head = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    if (sendmsg(ends[0], &message, 0) != 1) damaged("sendmsg");
    close(fd);
}

static int take_fd(void) {
    int fd;
    char space[CMSG_SPACE(sizeof fd)], byte;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    if (recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC) != 1) damaged("recvmsg");
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

/* It gets another name, or one more, which comes before or after the one by which it was mapped. */
static void rename_linked(void) {
    static const char *const twins[] = {"/dev/shm/0-twin", "/dev/shm/z-twin"};
    const char *twin = twins[dice(2)];
    char other[64];
    sprintf(other, "/dev/shm/%c-linked", "abc"[dice(3)]);
    if (dice(2)) {
        if (unlink(twin) != 0 && link(linked_name, twin) != 0) damaged("link of %s", linked_name);
    } else if (strcmp(other, linked_name) != 0) {
        if (rename(linked_name, other) != 0) damaged("rename of %s", linked_name);
        strcpy(linked_name, other);
    }
}

static void write_a_page(enum way way) {
    int page = (int)dice(PAGES);
    uint64_t value = ((uint64_t)dice(1u << 30) << 8) + 1;
    switch (way) {
    case MAPPED:
        fill(mapped + page * PAGE / 8, value);
        break;
    case LINKED:
        if (dice(4) == 0) rename_linked();
        fill(linked + page * PAGE / 8, value);
        break;
    case FLEETING:
        write_through(must_open(path_of(way), O_RDWR), page, value);
        break;
    case IN_FLIGHT: {
        int fd = take_fd();
        write_through(dup(fd), page, value);
        send_fd(fd);
        break;
    }
    case BY_CHILD: {
        pid_t child = fork();
        if (child == 0) {
            write_through(must_open(path_of(way), O_RDWR), page, value);
            _exit(0);
        }
        waitpid(child, NULL, 0);
        break;
    }
    case BY_CALL: {
        int fd = must_open(path_of(way), O_RDWR);
        write_page(fd, page, value);
        close(fd);
        break;
    }
    default: { /* SPARSE */
        int fd = must_open(path_of(way), O_RDWR);
        if (dice(3) == 0) {
            int keep = (int)dice(PAGES);
            if (ftruncate(fd, (off_t)keep * PAGE) != 0 || ftruncate(fd, PAGES * PAGE) != 0) damaged("ftruncate");
            for (int i = keep; i < PAGES; i++) model[way][i] = 0;
        } else if (dice(2)) {
            int count = (int)dice((uint32_t)(PAGES - page)) + 1;
            if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)page * PAGE, (off_t)count * PAGE) != 0)
                damaged("fallocate");
            for (int i = page; i < page + count; i++) model[way][i] = 0;
        }
        write_page(fd, page, value);
        close(fd);
    }
    }
    model[way][page] = value;
}

static void check_pages(enum way way) {
    static uint64_t words[PAGES * PAGE / 8];
    int fd = must_open(path_of(way), O_RDONLY);
    if (read(fd, words, sizeof words) != (ssize_t)sizeof words) damaged("read of %s", path_of(way));
    close(fd);
    const uint64_t *shown = way == MAPPED ? mapped : way == LINKED ? linked : words;
    for (size_t w = 0; w < sizeof words / 8; w++) {
        uint64_t wanted = model[way][w / (PAGE / 8)];
        if (words[w] != wanted) damaged("word %zu of %s: %lx, not %lx", w, path_of(way), words[w], wanted);
        if (shown[w] != wanted) damaged("word %zu of %s as mapped: %lx, not %lx", w, path_of(way), shown[w], wanted);
    }
}

static char byte_of(uint32_t seed, size_t at) {
    return (char)(seed * 31 + at * 7 + at / 251);
}

static void name_of(int i, char *path) {
    sprintf(path, "%s/slot%d", i % 2 ? FOLDER : "/dev/shm", i);
}

static void put(const char *path, int flags, uint32_t seed, size_t from, size_t to) {
    static char bytes[LENGTH_MAX];
    int fd = must_open(path, O_WRONLY | flags);
    for (size_t at = from; at < to; at++) bytes[at - from] = byte_of(seed, at);
    if (write(fd, bytes, to - from) != (ssize_t)(to - from)) damaged("write of %s", path);
    close(fd);
}

static void check_content(const char *path, uint32_t seed, size_t length) {
    static char bytes[LENGTH_MAX + 1];
    int fd = must_open(path, O_RDONLY);
    ssize_t got = read(fd, bytes, sizeof bytes);
    close(fd);
    if (got != (ssize_t)length) damaged("%s has %zd bytes, not %zu", path, got, length);
    for (size_t at = 0; at < length; at++)
        if (bytes[at] != byte_of(seed, at)) damaged("byte %zu of %s", at, path);
}

static void check_mark(const char *path, uint32_t seed) {
    uint32_t found = 0;
    if (seed % 3 == 0 && getxattr(path, "user.none", &found, sizeof found) >= 0) damaged("an attribute of %s", path);
    if (seed % 3 == 0) return;
    if (getxattr(path, "user.seed", &found, sizeof found) != sizeof found || found != seed)
        damaged("attribute of %s: %u, not %u", path, found, seed);
}

static void mark(const char *path, uint32_t seed) {
    if (seed % 3 == 0) {
        if (removexattr(path, "user.seed") != 0 && errno != ENODATA) damaged("removexattr of %s", path);
    } else if (setxattr(path, "user.seed", &seed, sizeof seed, 0) != 0)
        damaged("setxattr of %s", path);
}

static void check_slot(int i) {
    char path[64], inner[80], target[64];
    struct stat about;
    name_of(i, path);
    int missing = lstat(path, &about) != 0;
    if (slots[i].kind == NOTHING) {
        if (!missing) damaged("%s is there again", path);
        return;
    }
    if (missing) damaged("%s is gone", path);
    switch (slots[i].kind) {
    case FILE_:
        if (!S_ISREG(about.st_mode) || (about.st_mode & 0777) != slots[i].mode) damaged("mode %o of %s", about.st_mode, path);
        if (about.st_nlink != 1 + (nlink_t)slots[i].twins) damaged("%s has %lu names", path, about.st_nlink);
        check_content(path, slots[i].seed, slots[i].length);
        check_mark(path, slots[i].seed);
        sprintf(inner, "%s.twin", path);
        if (slots[i].twins) check_content(inner, slots[i].seed, slots[i].length);
        else if (access(inner, F_OK) == 0) damaged("%s is there again", inner);
        break;
    case LINK: {
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n < 0) damaged("%s is no link", path);
        target[n] = 0;
        if ((uint32_t)strtoul(target, NULL, 10) != slots[i].seed) damaged("%s leads to %s", path, target);
        break;
    }
    case FIFO:
        if (!S_ISFIFO(about.st_mode)) damaged("%s is no fifo", path);
        break;
    default:
        if (!S_ISDIR(about.st_mode)) damaged("%s is no folder", path);
        sprintf(inner, "%s/only", path);
        check_content(inner, slots[i].seed, slots[i].length);
        check_mark(path, slots[i].seed);
    }
}

static void clear(int i) {
    char path[64], inner[80];
    name_of(i, path);
    sprintf(inner, "%s.twin", path);
    unlink(inner);
    slots[i].twins = 0;
    if (slots[i].kind == FOLDER_) {
        sprintf(inner, "%s/only", path);
        unlink(inner);
        rmdir(path);
    } else
        unlink(path);
    slots[i].kind = NOTHING;
}

static void change(int i) {
    char path[64], other[80];
    name_of(i, path);
    uint32_t seed = dice(1u << 30);
    size_t length = dice(LENGTH_MAX);
    if (slots[i].kind == FILE_ && dice(4) > 0) {
        sprintf(other, "%s.%s", path, "twin");
        switch (dice(4)) {
        case 0:
            if (slots[i].length >= length) return;
            put(path, O_APPEND, slots[i].seed, slots[i].length, length);
            slots[i].length = length;
            return;
        case 1:
            slots[i].mode = 0600 + dice(0100);
            if (chmod(path, slots[i].mode) != 0) damaged("chmod of %s", path);
            return;
        case 2:
            if (slots[i].twins ? unlink(other) : link(path, other)) damaged("another name of %s", path);
            slots[i].twins ^= 1;
            return;
        default:
            put(path, O_TRUNC, seed, 0, length);
        }
    } else if (slots[i].kind == FILE_ && !slots[i].twins && dice(2)) { /* another one in its place */
        sprintf(other, "%s.new", path);
        put(other, O_CREAT | O_EXCL, seed, 0, length);
        if (rename(other, path) != 0 || chmod(path, slots[i].mode) != 0) damaged("rename of %s", other);
    } else {
        clear(i);
        slots[i].kind = (enum kind)dice(KINDS);
        sprintf(other, "%u", seed);
        if (slots[i].kind == FILE_) put(path, O_CREAT | O_EXCL, seed, 0, length), chmod(path, slots[i].mode = 0640);
        if (slots[i].kind == LINK && symlink(other, path) != 0) damaged("symlink %s", path);
        if (slots[i].kind == FIFO && mkfifo(path, 0600) != 0) damaged("mkfifo %s", path);
        if (slots[i].kind == FOLDER_) {
            if (mkdir(path, 0755) != 0) damaged("mkdir %s", path);
            sprintf(other, "%s/only", path);
            put(other, O_CREAT | O_EXCL, seed, 0, length);
        }
    }
    if (slots[i].kind == FILE_ || slots[i].kind == FOLDER_) mark(path, seed);
    slots[i].seed = seed;
    slots[i].length = length;
}

/* Noise, for what repeats would be sent as if it were nothing. */
static uint64_t still_word(uint64_t w) {
    w = (w + 1) * 0x9e3779b97f4a7c15ull;
    return w ^ (w >> 29);
}

static void make_still(void) {
    uint64_t words[PAGE / 8];
    int fd = must_open(FOLDER "/still", O_CREAT | O_WRONLY);
    for (size_t at = 0; at < still_bytes; at += PAGE) {
        for (int w = 0; w < PAGE / 8; w++) words[w] = still_word(at / 8 + (size_t)w);
        if (write(fd, words, PAGE) != PAGE) damaged("write of the still file");
    }
    close(fd);
}

static void check_still(void) {
    uint64_t words[PAGE / 8];
    int fd = must_open(FOLDER "/still", O_RDONLY);
    for (size_t at = 0; at < still_bytes; at += PAGE) {
        if (read(fd, words, PAGE) != PAGE) damaged("the still file ends at %zu", at);
        for (int w = 0; w < PAGE / 8; w++)
            if (words[w] != still_word(at / 8 + (size_t)w)) damaged("the still file at %zu", at);
    }
    close(fd);
}

static void start(void) {
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) damaged("socketpair");
    strcpy(linked_name, "/dev/shm/m-linked");
    for (enum way way = 0; way < WAYS; way++) {
        int fd = must_open(path_of(way), O_CREAT | O_RDWR);
        if (ftruncate(fd, PAGES * PAGE) != 0) damaged("ftruncate");
        if (way == MAPPED) mapped = map_file(fd);
        if (way == LINKED) linked = map_file(fd);
        if (way == IN_FLIGHT) send_fd(fd);
        else close(fd);
    }
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    still_bytes = argc > 1 ? strtoul(argv[1], NULL, 10) << 20 : 0;
    int busy = argc > 2 && strcmp(argv[2], "busy") == 0;
    make_still();
    start();
    for (uint64_t round = 0;; round++) {
        if (busy) {
            for (int n = 0; n < 3; n++) change((int)dice(SLOTS));
            for (enum way way = 0; way < WAYS; way++) write_a_page(way);
            for (int i = 0; i < SLOTS; i++) check_slot(i);
        }
        for (enum way way = 0; way < WAYS; way++) check_pages(way);
        if (round % 25 == 24) {
            check_still();
            printf("intact\n");
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}
