// System V message queues and semaphores: numbers, keys, permissions, messages in their order with
// their types, values. argv[2]: queue, semaphores, undo.
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

#include "support/object.h"

static struct {
    long type;
    char text[300];
} message;

static int id;

static void send(long type, size_t length, uint64_t seed) {
    message.type = type;
    object_fill(message.text, length, seed);
    MUST(msgsnd(id, &message, length, IPC_NOWAIT));
}

static void receive(long wanted, long type, size_t length, uint64_t seed) {
    ssize_t got = msgrcv(id, &message, sizeof message.text, wanted, IPC_NOWAIT);
    CHECK(got >= 0, "msgrcv: %s", strerror(errno));
    CHECK_EQUAL(got, length, "the message's length");
    CHECK_EQUAL(message.type, type, "the message's type");
    CHECK_FILLED(message.text, length, seed, "the message");
}

static void check_permissions(const struct ipc_perm *is, const struct ipc_perm *was) {
    CHECK_EQUAL(is->__key, was->__key, "key");
    CHECK_EQUAL(is->mode, was->mode, "mode");
    CHECK_EQUAL(is->uid, was->uid, "uid");
    CHECK_EQUAL(is->gid, was->gid, "gid");
}

static void queue(key_t key) {
    struct msqid_ds was, is;
    for (int i = 0; i < 2; i++) { // so that the number is not the first that the kernel gives
        MUST(msgctl(MUST(msgget(IPC_PRIVATE, IPC_CREAT | 0600)), IPC_RMID, NULL));
    }
    id = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0620));
    MUST(msgctl(id, IPC_STAT, &was));
    was.msg_perm.uid = 7;
    was.msg_qbytes = 4000;
    MUST(msgctl(id, IPC_SET, &was));
    send(3, 100, 1);
    send(1, 0, 2);
    send(3, 300, 3);
    send(0x7fffffffL, 5, 4);
    send(1, 17, 5);
    object_ready_and_wait();
    SABOTAGE(msgctl(id, IPC_RMID, NULL));
    MUST(msgctl(id, IPC_STAT, &is));
    check_permissions(&is.msg_perm, &was.msg_perm);
    CHECK_EQUAL(is.msg_qbytes, 4000, "room");
    CHECK_EQUAL(is.msg_qnum, 5, "messages");
    CHECK_EQUAL(msgget(key, 0), id, "the number behind the key");
    receive(1, 1, 0, 2);
    receive(0, 3, 100, 1);
    receive(0, 3, 300, 3);
    receive(-5, 1, 17, 5);
    receive(0, 0x7fffffffL, 5, 4);
    MUST(msgctl(id, IPC_RMID, NULL));
}

static void semaphores(key_t key) {
    union {
        int value;
        struct semid_ds *status;
        unsigned short *array;
    } argument;
    struct semid_ds was, is;
    for (int i = 0; i < 2; i++) {
        MUST(semctl(MUST(semget(IPC_PRIVATE, 1, IPC_CREAT | 0600)), 0, IPC_RMID));
    }
    id = MUST(semget(key, 5, IPC_CREAT | IPC_EXCL | 0640));
    unsigned short values[] = {4, 0, 32767, 1, 9}, now[5];
    argument.array = values;
    MUST(semctl(id, 0, SETALL, argument));
    argument.status = &was;
    MUST(semctl(id, 0, IPC_STAT, argument));
    object_ready_and_wait();
    SABOTAGE(semctl(id, 0, IPC_RMID));
    argument.status = &is;
    MUST(semctl(id, 0, IPC_STAT, argument));
    check_permissions(&is.sem_perm, &was.sem_perm);
    CHECK_EQUAL(is.sem_nsems, 5, "semaphores");
    CHECK_EQUAL(semget(key, 5, 0), id, "the number behind the key");
    argument.array = now;
    MUST(semctl(id, 0, GETALL, argument));
    CHECK(memcmp(now, values, sizeof now) == 0, "the values are %d %d %d %d %d", now[0], now[1],
          now[2], now[3], now[4]);
    MUST(semctl(id, 0, IPC_RMID));
}

/// Children with adjustments of every sort, which show only when they end: one with threads, one that
/// has given as much as it took.
static void undo_by(int number, int change) {
    struct sembuf operation = {.sem_num = (unsigned short)number, .sem_op = (short)change, .sem_flg = SEM_UNDO};
    MUST(semop(id, &operation, 1));
}

static void *nothing(void *argument) {
    for (;;) {
        pause();
    }
    return argument;
}

static void user(void *argument) {
    pthread_t thread;
    switch ((int)(intptr_t)argument) {
    case 0: undo_by(0, -2), undo_by(4, 3); break;
    case 1:
        MUST_BE_ZERO(pthread_create(&thread, NULL, nothing, NULL));
        undo_by(0, -1), undo_by(3, 30000), undo_by(3, -1);
        break;
    case 2: undo_by(1, -5), undo_by(1, 5); break;
    default: undo_by(2, -32767);
    }
    object_child_wait();
}

static void undo(key_t key) {
    static const unsigned short set[] = {7, 5, 32767, 0, 9}, lowered[] = {4, 5, 0, 29999, 12};
    // As the children end, one after the other.
    static const unsigned short then[][5] = {
        {6, 5, 0, 29999, 9}, {7, 5, 0, 0, 9}, {7, 5, 0, 0, 9}, {7, 5, 32767, 0, 9}};
    id = MUST(semget(key, 5, IPC_CREAT | IPC_EXCL | 0640));
    unsigned short now[5];
    MUST(semctl(id, 0, SETALL, set));
    for (int i = 0; i < 4; i++) {
        object_fork(user, (void *)(intptr_t)i);
    }
    object_ready_and_wait();
    MUST(semctl(id, 0, GETALL, now));
    bool is_lowered = memcmp(now, lowered, sizeof now) == 0;
    SABOTAGE(MUST(semctl(id, 4, SETVAL, 12))); // the adjustments of that one are gone
    bool is_undone = true;
    for (int i = 0; i < 4; i++) {
        object_join(object_children[i]);
        MUST(semctl(id, 0, GETALL, now));
        is_undone = is_undone && memcmp(now, then[i], sizeof now) == 0;
    }
    MUST(semctl(id, 0, IPC_RMID));
    CHECK(is_lowered, "the values were others");
    CHECK(is_undone, "what was undone is not what was done; at the end %d %d %d %d %d", now[0], now[1],
          now[2], now[3], now[4]);
}

int main(int argc, char **argv) {
    object_start(argc, argv);
    const char *kind = argc < 3 ? "queue" : argv[2];
    void (*run)(key_t) = strcmp(kind, "queue") == 0 ? queue : strcmp(kind, "undo") == 0 ? undo : semaphores;
    run(0x46100000 + getpid());
    object_pass();
}
