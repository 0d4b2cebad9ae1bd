/* Makes things when it gets SIGUSR1: argument "memory" (System V segments, whole, in part, read-only, removed and not; a
 * memory file), "mounts" (a tmpfs and a bind mount) or "queues" (connections that nobody has accepted, with data, and an
 * event that nobody has read). Then it says "made", and looks at all of its memory again and again: each time it says
 * "intact N", or "damaged ..." and ends. On SIGUSR2 it takes what is in its queues and says "served". */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096ul
enum { PLAIN_PAGES = 1024, SEGMENT_PAGES = 16, HOLE_AT = 3, HOLE_PAGES = 4, PLACES_MAX = 8 };

static volatile sig_atomic_t asked;

/* Memory that holds one value, and the next one the next time. */
struct place {
    const char *name;
    uint64_t *words;
    size_t pages;
    int is_shown; /* it shows what another place writes */
};

static struct place places[PLACES_MAX];
static int count;
static uint64_t value = 1;

static void must(int good, const char *what) {
    if (good) return;
    printf("damaged %s: %s\n", what, strerror(errno));
    exit(1);
}

static void add(const char *name, void *words, size_t pages, int is_shown) {
    places[count++] = (struct place){name, words, pages, is_shown};
}

static void look(void) {
    for (int i = 0; i < count; i++) {
        for (size_t page = 0; page < places[i].pages; page++) {
            uint64_t found = places[i].words[page * PAGE / 8 + page % 8];
            if (found == value + page) continue;
            printf("damaged %s: page %zu holds %lu, not %lu\n", places[i].name, page, found, value + page);
            exit(1);
        }
    }
    value++;
}

static void write_all(void) {
    for (int i = 0; i < count; i++) {
        if (places[i].is_shown) continue;
        for (size_t page = 0; page < places[i].pages; page++) {
            places[i].words[page * PAGE / 8 + page % 8] = value + page;
        }
    }
}

static void *attach(int id, int flags) {
    void *memory = shmat(id, NULL, flags);
    must(memory != (void *)-1, "shmat");
    return memory;
}

static int segment(void) {
    int id = shmget(IPC_PRIVATE, SEGMENT_PAGES * PAGE, IPC_CREAT | 0600);
    must(id >= 0, "shmget");
    return id;
}

static void make_memory(void) {
    int removed = segment(), kept = segment(), parted = segment();
    add("a segment that was removed", attach(removed, 0), SEGMENT_PAGES, 0);
    must(shmctl(removed, IPC_RMID, NULL) == 0, "IPC_RMID");
    add("a segment", attach(kept, 0), SEGMENT_PAGES, 0);
    add("a segment that is read", attach(kept, SHM_RDONLY), SEGMENT_PAGES, 1);
    char *part = attach(parted, 0), *hole = part + HOLE_AT * PAGE, *end = hole + HOLE_PAGES * PAGE;
    must(mmap(hole, HOLE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == hole,
         "mmap");
    add("the start of a segment", part, HOLE_AT, 0);
    add("what is mapped into it", hole, HOLE_PAGES, 0);
    add("the end of a segment", end, SEGMENT_PAGES - HOLE_AT - HOLE_PAGES, 0);
    int fd = memfd_create("made", 0);
    must(fd >= 0 && ftruncate(fd, SEGMENT_PAGES * PAGE) == 0, "memfd_create");
    void *memory = mmap(NULL, SEGMENT_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(memory != MAP_FAILED, "mmap");
    close(fd);
    add("a memory file", memory, SEGMENT_PAGES, 0);
}

static void make_mounts(void) {
    must(mkdir("/made", 0755) == 0 && mkdir("/bound", 0755) == 0, "mkdir");
    must(mount("made", "/made", "tmpfs", 0, NULL) == 0, "mount of a tmpfs");
    must(mount("/made", "/bound", NULL, MS_BIND, NULL) == 0, "bind mount");
    FILE *file = fopen("/bound/file", "w");
    must(file != NULL && fputs("made", file) >= 0 && fclose(file) == 0, "file");
}

enum { SENT = 30000 };

static int listeners[2], clients[2], watcher;
static char sent[SENT];

static void make_queues(void) {
    for (int i = 0; i < SENT; i++) sent[i] = (char)(i * 7 + i / 251);
    struct sockaddr_un local = {.sun_family = AF_UNIX, .sun_path = "/queue"};
    struct sockaddr_in inet = {.sin_family = AF_INET, .sin_port = htons(7777)};
    inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct sockaddr *addresses[] = {(struct sockaddr *)&local, (struct sockaddr *)&inet};
    socklen_t lengths[] = {sizeof local, sizeof inet};
    for (int i = 0; i < 2; i++) {
        int family = addresses[i]->sa_family;
        listeners[i] = socket(family, SOCK_STREAM, 0);
        clients[i] = socket(family, SOCK_STREAM, 0);
        must(bind(listeners[i], addresses[i], lengths[i]) == 0 && listen(listeners[i], 4) == 0, "listen");
        must(connect(clients[i], addresses[i], lengths[i]) == 0, "connect");
        must(send(clients[i], sent, SENT, 0) == SENT, "send");
    }
    watcher = inotify_init();
    must(inotify_add_watch(watcher, "/", IN_CREATE) > 0 && mkdir("/watched", 0755) == 0, "inotify");
}

static void serve(void) {
    static char got[SENT];
    for (int i = 0; i < 2; i++) {
        int fd = accept(listeners[i], NULL, NULL);
        must(fd >= 0 && recv(fd, got, SENT, MSG_WAITALL) == SENT, "what came before accept");
        must(memcmp(got, sent, SENT) == 0, "what came before accept differs");
        must(send(fd, "answer", 6, 0) == 6 && recv(clients[i], got, 6, MSG_WAITALL) == 6, "the answer");
    }
    must(read(watcher, got, SENT) >= (ssize_t)sizeof(struct inotify_event), "events");
    printf("served\n");
}

static volatile sig_atomic_t served;

static void ask(int number) {
    if (number == SIGUSR1) asked = 1;
    else served = 1;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    must(argc == 2, "usage: making memory|mounts|queues");
    int has_mounts = strcmp(argv[1], "mounts") == 0, has_queues = strcmp(argv[1], "queues") == 0, made = 0;
    void *plain = mmap(NULL, PLAIN_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(plain != MAP_FAILED, "mmap");
    add("plain memory", plain, PLAIN_PAGES, 0);
    signal(SIGUSR1, ask);
    signal(SIGUSR2, ask);
    for (uint64_t n = 1;; n++) {
        if (asked && !made) {
            if (has_queues) make_queues();
            else if (has_mounts) make_mounts();
            else make_memory();
            made = 1;
            printf("made\n");
        }
        if (served == 1) {
            served = 2;
            serve();
        }
        write_all();
        look();
        if (made && has_mounts) must(access("/made/file", F_OK) == 0, "/made/file");
        printf("intact %lu\n", n);
        usleep(20000);
    }
}
