/* ferry-shim: one small process per container that outlives the agent. It runs the OCI
 * runtime's `create`, so that the container's PID 1 becomes its child (it is a subreaper); it turns
 * what the container writes to stdout and stderr into JSON lines; it reaps PID 1 and records how it
 * ended.
 *
 *   ferry-shim LOG EXIT PIDFILE COUNT COMMAND...
 *
 * LOG      appended to: {"time":RFC3339,"stream":"stdout"|"stderr",
 *          "line":TEXT | "hex":BYTES[,"partial":true]}
 *          "partial": the line goes on in the stream's next record. "hex": bytes not UTF-8.
 * EXIT     written (atomically) when PID 1 has ended: {"status":N | "signal":N,"time":RFC3339}
 * PIDFILE  where COMMAND writes the PID of the container's first process
 * COUNT    descriptors 3 .. 3+COUNT-1 are passed on to COMMAND; the shim closes its own copies
 *
 * On its own stdout it reports once and closes it:
 *   pipes OUT-INODE ERR-INODE, then exit STATUS (of COMMAND).
 * It holds no state of the log in memory: when it waits in poll(2) and the pipes are empty, all is
 * in LOG. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    CHUNK_BYTES = 64 * 1024,        /* one read; a pipe's default size */
    LINE_BYTES_MAX = 16 * 1024,     /* a longer line is split into partial records */
    RECORD_OVERHEAD_BYTES = 160,
    PIPE_BYTES = 1024 * 1024,       /* asked for; a smaller pipe works too */
};

struct stream {
    const char *name;
    int fd;
};

/* Worst case: every byte becomes six, and every byte a record of its own. */
static char output[CHUNK_BYTES * (RECORD_OVERHEAD_BYTES + 6)];
static size_t output_length;
static unsigned long long lost_bytes;

static void timestamp(char *text, size_t size) {
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    size_t used = strftime(text, size, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(text + used, size - used, ".%06ldZ", now.tv_nsec / 1000);
}

static void put(const char *text, size_t length) {
    memcpy(output + output_length, text, length);
    output_length += length;
}

/* Bytes of the UTF-8 sequence at `at`, 0 when it is none (Unicode 15, table 3-7). */
static size_t utf8_length(const unsigned char *at, size_t left) {
    if (at[0] < 0x80) return 1;
    size_t need = at[0] >= 0xC2 && at[0] <= 0xDF ? 2 : (at[0] & 0xF0) == 0xE0 ? 3
                : at[0] >= 0xF0 && at[0] <= 0xF4 ? 4 : 0;
    if (need == 0 || left < need) return 0;
    for (size_t i = 1; i < need; i++)
        if ((at[i] & 0xC0) != 0x80) return 0;
    if (at[0] == 0xE0 && at[1] < 0xA0) return 0;
    if (at[0] == 0xED && at[1] > 0x9F) return 0;
    if (at[0] == 0xF0 && at[1] < 0x90) return 0;
    if (at[0] == 0xF4 && at[1] > 0x8F) return 0;
    return need;
}

static bool is_utf8(const unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length;) {
        size_t step = utf8_length(bytes + i, length - i);
        if (step == 0) return false;
        i += step;
    }
    return true;
}

static void put_escaped(const unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) {
        char code[8];
        unsigned char byte = bytes[i];
        if (byte == '"' || byte == '\\') {
            code[0] = '\\';
            code[1] = (char)byte;
            put(code, 2);
        } else if (byte < 0x20 || byte == 0x7F) {
            put(code, (size_t)snprintf(code, sizeof code, "\\u%04x", byte));
        } else {
            put((const char *)&byte, 1);
        }
    }
}

static void put_hex(const unsigned char *bytes, size_t length) {
    for (size_t i = 0; i < length; i++) {
        char code[3];
        put(code, (size_t)snprintf(code, sizeof code, "%02x", bytes[i]));
    }
}

static void put_record(const char *stream, const unsigned char *bytes, size_t length,
                       bool partial) {
    char head[RECORD_OVERHEAD_BYTES], now[40];
    bool text = is_utf8(bytes, length);
    timestamp(now, sizeof now);
    put(head, (size_t)snprintf(head, sizeof head,
                               "{\"time\":\"%s\",\"stream\":\"%s\",\"%s\":\"", now, stream,
                               text ? "line" : "hex"));
    if (text) put_escaped(bytes, length);
    else put_hex(bytes, length);
    put("\"", 1);
    if (partial) put(",\"partial\":true", 15);
    put("}\n", 2);
}

/* Whole records or none: what a full disk does not take is counted, never waited for. */
static void flush_output(int log) {
    off_t start = lseek(log, 0, SEEK_END);
    size_t done = 0;
    while (done < output_length) {
        ssize_t wrote = write(log, output + done, output_length - done);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) break;
        done += (size_t)wrote;
    }
    if (done < output_length) {
        lost_bytes += output_length;
        if (start >= 0 && ftruncate(log, start) != 0) lost_bytes++;
    }
    output_length = 0;
}

static void report_lost(int log) {
    if (lost_bytes == 0) return;
    char line[120], now[40];
    timestamp(now, sizeof now);
    int length = snprintf(line, sizeof line,
                          "{\"time\":\"%s\",\"stream\":\"stderr\",\"lostBytes\":%llu}\n", now,
                          lost_bytes);
    if (write(log, line, (size_t)length) == length) lost_bytes = 0;
}

/* One read and its records. Returns false when the stream has ended. */
static bool pump(struct stream *stream, int log) {
    static unsigned char chunk[CHUNK_BYTES];
    ssize_t got = read(stream->fd, chunk, sizeof chunk);
    if (got < 0) return errno == EINTR || errno == EAGAIN;
    if (got == 0) return false;
    size_t length = (size_t)got;
    for (size_t from = 0; from < length;) {
        size_t room = length - from < LINE_BYTES_MAX ? length - from : LINE_BYTES_MAX;
        const unsigned char *end = memchr(chunk + from, '\n', room);
        size_t size = end == NULL ? room : (size_t)(end - (chunk + from));
        put_record(stream->name, chunk + from, size, end == NULL);
        from += size + (end == NULL ? 0 : 1);
    }
    flush_output(log);
    report_lost(log);
    return true;
}

static void write_exit(const char *path, int status) {
    char temporary[4096], text[128], now[40];
    timestamp(now, sizeof now);
    bool signaled = WIFSIGNALED(status);
    int length = snprintf(text, sizeof text, "{\"%s\":%d,\"time\":\"%s\"}\n",
                          signaled ? "signal" : "status",
                          signaled ? WTERMSIG(status) : WEXITSTATUS(status), now);
    snprintf(temporary, sizeof temporary, "%s.new", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return;
    bool whole = write(fd, text, (size_t)length) == length;
    close(fd);
    if (whole) rename(temporary, path);
}

static pid_t read_pid(const char *path) {
    FILE *file = fopen(path, "re");
    int pid = 0;
    if (file == NULL) return 0;
    if (fscanf(file, "%d", &pid) != 1) pid = 0;
    fclose(file);
    return pid;
}

static ino_t inode_of(int fd) {
    struct stat about;
    return fstat(fd, &about) == 0 ? about.st_ino : 0;
}

static pid_t spawn(char **command, int out, int err) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(out, 1);
    dup2(err, 2);
    execvp(command[0], command);
    dprintf(2, "%s: %s\n", command[0], strerror(errno));
    _exit(127);
}

/* Reaps all that has ended. `command_status` and `init_status` keep -1 until theirs is known. */
static void reap(pid_t command, int *command_status, pid_t *init, const char *pid_file,
                 int *init_status) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == command) {
            *command_status = status;
            continue;
        }
        /* PID 1 may end before COMMAND does: what it was is known from the file COMMAND wrote. */
        if (*init == 0) *init = read_pid(pid_file);
        if (pid == *init) *init_status = status;
    }
}

static void watch(struct stream *streams, int log, int signals, pid_t command, char **argv) {
    const char *exit_file = argv[2], *pid_file = argv[3];
    int command_status = -1, init_status = -1;
    bool reported = false, recorded = false;
    pid_t init = 0;
    for (;;) {
        struct pollfd polled[3] = {
            {.fd = streams[0].fd, .events = POLLIN},
            {.fd = streams[1].fd, .events = POLLIN},
            {.fd = signals, .events = POLLIN},
        };
        if (poll(polled, 3, -1) < 0 && errno != EINTR) return;
        if (polled[2].revents != 0) {
            struct signalfd_siginfo info;
            if (read(signals, &info, sizeof info) < 0 && errno != EAGAIN) return;
            reap(command, &command_status, &init, pid_file, &init_status);
        }
        for (int i = 0; i < 2; i++) {
            if (polled[i].revents == 0) continue;
            if (!pump(&streams[i], log)) {
                close(streams[i].fd);
                streams[i].fd = -1;
            }
        }
        if (command_status != -1 && !reported) {
            reported = true;
            init = read_pid(pid_file);
            /* It may have ended unseen, before its number was known: nothing to wait for then. */
            if (init != 0 && init_status == -1 && kill(init, 0) != 0) init = 0;
            dprintf(1, "exit %d\n", WIFEXITED(command_status) ? WEXITSTATUS(command_status)
                                                             : 128 + WTERMSIG(command_status));
            int null = open("/dev/null", O_RDWR | O_CLOEXEC);
            if (null >= 0) dup2(null, 1);
        }
        if (init_status != -1 && !recorded) {
            recorded = true;
            write_exit(exit_file, init_status);
        }
        bool ended = recorded || (reported && init == 0);
        if (ended && streams[0].fd < 0 && streams[1].fd < 0) return;
    }
}

static void close_from(int first) {
    if (syscall(SYS_close_range, first, ~0U, 0) == 0) return;
    for (int fd = first; fd < 65536; fd++) close(fd); /* before Linux 5.9 */
}

/* Without its shim a container gets SIGPIPE: where the host allows it, let others go first. After
 * the fork, for the container must not inherit this. */
static void spare_from_oom(void) {
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (write(fd, "-900", 4) != 4) errno = 0;
    close(fd);
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: ferry-shim LOG EXIT PIDFILE COUNT COMMAND...\n");
        return 2;
    }
    /* What the agent had open by accident would live on here, and in the container. */
    int passed = atoi(argv[4]);
    close_from(3 + passed);
    int log = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int out[2], err[2];
    if (log < 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) {
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    fcntl(out[0], F_SETPIPE_SZ, PIPE_BYTES);
    fcntl(err[0], F_SETPIPE_SZ, PIPE_BYTES);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_BLOCK, &children, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    int signals = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
    dprintf(1, "pipes %llu %llu\n", (unsigned long long)inode_of(out[1]),
            (unsigned long long)inode_of(err[1]));

    pid_t command = spawn(argv + 5, out[1], err[1]);
    if (command < 0) return 1;
    close(out[1]);
    close(err[1]);
    spare_from_oom();
    for (int fd = 3; fd < 3 + passed; fd++) close(fd);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) dup2(null, 2);

    struct stream streams[2] = {{"stdout", out[0]}, {"stderr", err[0]}};
    watch(streams, log, signals, command, argv);
    return 0;
}
