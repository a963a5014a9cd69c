/*
 * A fuzz target without a fuzzer: gives it the files of a directory, one after another. So what was
 * found stays a test, with any compiler and under any sanitizer.
 *
 *     replay_NAME tests/fuzz/<layer>/corpus/NAME
 */
#include "tests/fuzz/check.h"

#include <dirent.h>
#include <stdio.h>

static char *
read_file(const char *path, size_t *ret_n)
{
    FILE *file = fopen(path, "rb");
    char *bytes = NULL;
    size_t n = 0;

    if (file == NULL) {
        perror(path);
        exit(1);
    }
    for (size_t more = 1; more > 0; n += more) {
        bytes = xrealloc(bytes, n + 65536);
        more = fread(bytes + n, 1, 65536, file);
    }
    fclose(file);
    *ret_n = n;
    return bytes;
}

int
main(int argc, char **argv)
{
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    size_t n_files = 0;

    if (dir == NULL) {
        fprintf(stderr, "usage: %s DIRECTORY, and it has to be there\n", argv[0]);
        return 64;
    }
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        size_t n;
        CLEANUP(freep) char *path = xasprintf("%s/%s", argv[1], entry->d_name);
        CLEANUP(freep) char *bytes = read_file(path, &n);
        CLEANUP(freep) char *exact = fuzz_copy(bytes, n); /* reads beyond it are seen */
        fprintf(stderr, "%s\n", path); /* the last one told is the one that failed */
        LLVMFuzzerTestOneInput((const uint8_t *)exact, n);
        n_files++;
    }
    closedir(dir);
    printf("%zu files\n", n_files);
    return n_files > 0 ? 0 : 1;
}
