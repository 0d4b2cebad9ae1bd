// A changed root directory, and a working directory below it.
#include "support/object.h"

int main(int argc, char **argv) {
    object_start(argc, argv);
    char path[PATH_MAX];
    MUST(mkdir(object_path(path, "inner"), 0777));
    object_write_file("inner/witness", 0, "here");
    MUST(chroot(object_directory));
    MUST(chdir("/inner"));
    strcpy(object_directory, "");
    strcpy(object_home, "");
    object_ready_and_wait();
    SABOTAGE(MUST(chdir("/")));
    CHECK(access("/inner/witness", F_OK) == 0, "the root directory is another one");
    CHECK(access("witness", F_OK) == 0, "the working directory is another one");
    struct stat root, above;
    MUST(stat("/", &root));
    MUST(stat("/..", &above));
    CHECK(root.st_ino == above.st_ino && root.st_dev == above.st_dev, "the root can be left");
    object_pass();
}
