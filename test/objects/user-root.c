// A tree whose root is in a user namespace of its own, whose numbers are other ones outside: what the root makes there
// belongs to it. argv[2] names the kind.
#include "support/spaces.h"

// Somebody outside writes the maps.
static void enter(void) {
    enter_mapped(0, 2000);
    MUST(setresgid(0, 0, 0));
    MUST(setresuid(0, 0, 0));
}

static volatile int *shared;

static void count_up(void *argument) {
    (void)argument;
    object_child_wait();
    shared[1]++;
}

// In a user namespace nobody may open the files of /proc/self/map_files.
static void memory(void) {
    shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED, "mmap: %s", strerror(errno));
    shared[0] = 17, shared[1] = 4;
    pid_t child = object_fork(count_up, NULL);
    object_ready_and_wait();
    SABOTAGE(shared[1] = 0);
    object_join(child);
    CHECK_EQUAL(shared[0], 17, "what was there");
    CHECK_EQUAL(shared[1], 5, "what the child adds to");
    CHECK_EQUAL(shared[PAGE / sizeof *shared], 0, "what nobody wrote");
    MUST(mprotect((void *)shared, PAGE, PROT_READ | PROT_EXEC));
}

static void check_owner(int fd, const char *what, uid_t uid, gid_t gid) {
    struct stat info;
    MUST(fstat(fd, &info));
    CHECK(info.st_uid == uid && info.st_gid == gid, "%s belongs to %u:%u", what, info.st_uid, info.st_gid);
}

static void files(void) {
    char path[PATH_MAX], text[8] = "";
    int ends[2];
    MUST(pipe(ends));
    MUST(fchown(ends[0], 12, 13));
    CHECK_EQUAL(write(ends[1], "pipe", 4), 4, "write");
    int file = MUST(open(object_path(path, "file"), O_RDWR | O_CREAT, 0640));
    CHECK_EQUAL(write(file, "file", 4), 4, "write");
    MUST(fchown(file, 1000, 1001));
    MUST(unlink(path));
    int mapped = MUST(open(object_path(path, "mapped"), O_RDWR | O_CREAT, 0600));
    CHECK_EQUAL(write(mapped, "mapped", 6), 6, "write");
    char *at = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, mapped, 0);
    CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
    MUST(unlink(path));
    int memory = MUST(memfd_create("object", 0));
    CHECK_EQUAL(write(memory, "memfd", 5), 5, "write");
    MUST(fchown(memory, 5, 6));
    object_ready_and_wait();
    SABOTAGE(MUST(fchown(memory, 0, 0)));
    check_owner(ends[1], "the pipe", 12, 13);
    check_owner(file, "the file", 1000, 1001);
    check_owner(mapped, "the mapped file", 0, 0);
    check_owner(memory, "the memfd", 5, 6);
    CHECK(read(ends[0], text, 8) == 4 && memcmp(text, "pipe", 4) == 0, "in the pipe is %s", text);
    CHECK(pread(file, text, 8, 0) == 4 && memcmp(text, "file", 4) == 0, "in the file is %s", text);
    CHECK(pread(memory, text, 8, 0) == 5 && memcmp(text, "memfd", 5) == 0, "in the memfd is %s", text);
    CHECK(memcmp(at, "mapped", 6) == 0, "the mapped file has another content");
}

static void named_child(void *argument) {
    (void)argument;
    char name[64] = "";
    MUST(unshare(CLONE_NEWUTS));
    MUST(sethostname("inner", 5));
    object_child_wait();
    MUST(gethostname(name, sizeof name));
    CHECK(strcmp(name, "inner") == 0, "host name %s", name);
    MUST(sethostname("mine", 4));
}

// Namespaces below belong to the root's user namespace.
static void nested(void) {
    pid_t child = object_fork(named_child, NULL);
    char name[64] = "";
    object_ready_and_wait();
    object_join(child);
    MUST(gethostname(name, sizeof name));
    SABOTAGE(strcpy(name, "inner"));
    CHECK(strcmp(name, "inner") != 0 && strcmp(name, "mine") != 0, "host name %s", name);
}

// The number of who logged in is told as outside.
static void log_in(void) {
    int fd = open("/proc/self/loginuid", O_WRONLY);
    if (fd < 0 || write(fd, "101234", 6) != 6) {
        object_put_file("result", "SKIP no loginuid here\n");
        exit(0);
    }
    close(fd);
}

static void login(void) {
    char text[64] = "";
    object_ready_and_wait();
    object_read("/proc/self/loginuid", text, sizeof text);
    SABOTAGE(text[0] = '9');
    CHECK(strcmp(text, "1234") == 0, "loginuid is %s", text);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } kinds[] = {{"memory", memory}, {"files", files}, {"nested", nested}, {"login", login}};
    object_start(argc, argv);
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(argv[2], kinds[i].name) == 0) {
            if (kinds[i].run == login) log_in();
            enter();
            kinds[i].run();
            object_pass();
        }
    }
    object_fail("no kind %s", argv[2]);
}
