/*
 * `user add` and `user remove`: the file for SMTP AUTH. Passwords never come from the command line,
 * where every user of the machine could read them.
 */
#include "policy/users.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "relayd/ctl/ctl.h"

#define PASSWORD_BYTES (USERS_PASSWORD_MAX + 2)

/* ---- a password from the terminal ---- */

static struct termios saved_terminal;

/* Ctrl-C at the prompt: the terminal must echo again. */
static void
on_signal(int number)
{
    tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
    signal(number, SIG_DFL);
    raise(number);
}

/*
 * One line of standard input without its line end. False at the end of input, for a NUL, and for a
 * line that is too long.
 */
static bool
read_line(char buf[PASSWORD_BYTES])
{
    size_t n = 0;
    int c;
    while ((c = getchar()) != EOF && c != '\n') {
        if (c == '\0' || n + 1 >= PASSWORD_BYTES)
            return false;
        buf[n++] = (char)c;
    }
    if (n > 0 && buf[n - 1] == '\r')
        n--;
    buf[n] = '\0';
    return n > 0;
}

static bool
ask(const char *prompt, char buf[PASSWORD_BYTES])
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    struct termios quiet;
    if (tcgetattr(STDIN_FILENO, &saved_terminal) != 0)
        return false;
    for (size_t i = 0; i < N_ELEMENTS(signals); i++)
        signal(signals[i], on_signal);
    quiet = saved_terminal;
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    fputs(prompt, stderr);
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    bool read = read_line(buf);
    tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
    fputc('\n', stderr);
    for (size_t i = 0; i < N_ELEMENTS(signals); i++)
        signal(signals[i], SIG_DFL);
    return read;
}

static int
password_get(char buf[PASSWORD_BYTES])
{
    char again[PASSWORD_BYTES];
    if (!isatty(STDIN_FILENO)) {
        if (read_line(buf))
            return 0;
        ctl_complain("the first line of standard input must be the password, at most %d bytes",
                     USERS_PASSWORD_MAX);
        return EX_DATAERR;
    }
    if (!ask("Password: ", buf) || !ask("Once more: ", again)) {
        ctl_complain("no password");
        return EX_DATAERR;
    }
    bool same = strcmp(buf, again) == 0;
    explicit_bzero(again, sizeof(again));
    if (same)
        return 0;
    ctl_complain("the two passwords differ");
    return EX_DATAERR;
}

/* ---- the verbs ---- */

static const char *
file_option(const struct ctl *ctl)
{
    const char *file = ctl_option(ctl, "--file");
    if (file == NULL)
        ctl_usage(ctl, "--file FILE is missing");
    return file;
}

static int
print_user(const struct ctl *ctl, const char *file, const char *done, const char *password)
{
    if (!ctl->json) {
        printf("%s %s %s\n", ctl->args[0], done, file);
        if (password != NULL)
            printf("password: %s\n", password);
        return ctl_finish();
    }
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "name", ctl->args[0]);
    cJSON_AddStringToObject(json, "file", file);
    if (password != NULL)
        cJSON_AddStringToObject(json, "password", password);
    int code = ctl_print_json(json);
    cJSON_Delete(json);
    return code;
}

static int
add_run(struct ctl *ctl)
{
    char password[PASSWORD_BYTES];
    struct err err;
    const char *file = file_option(ctl);
    bool generate = ctl_option(ctl, "--generate") != NULL;
    _Static_assert(PASSWORD_BYTES >= USERS_GENERATED_MAX, "a generated password fits");
    int code = 0;
    if (generate)
        users_generate(password);
    else
        code = password_get(password);
    if (code == 0 && users_add(file, span_str(ctl->args[0]), span_str(password), &err) != ERR_OK)
        code = ctl_fail(&err);
    if (code == 0)
        code = print_user(ctl, file, "is in", generate ? password : NULL);
    explicit_bzero(password, sizeof(password));
    return code;
}

static int
remove_run(struct ctl *ctl)
{
    struct err err;
    const char *file = file_option(ctl);
    if (users_remove(file, span_str(ctl->args[0]), &err) != ERR_OK)
        return ctl_fail(&err);
    return print_user(ctl, file, "is no longer in", NULL);
}

static const struct ctl_option add_options[] = {
    {"--file", "FILE", "the users file; made when it is not there, mode 0600"},
    {"--generate", NULL, "make a random password and print it"},
    {0},
};
static const struct ctl_option remove_options[] = {{"--file", "FILE", "the users file"}, {0}};

const struct ctl_verb ctl_user_verbs[] = {
    {"user add", "NAME", 1, 1, "add a user for SMTP AUTH, or set his password",
     "The password is the first line of standard input; on a terminal it is asked for twice.\n"
     "Needs neither the daemon nor a configuration. relayctl reload makes the daemon read the "
     "file.",
     add_options, add_run},
    {"user remove", "NAME", 1, 1, "take a user out of the file", NULL, remove_options, remove_run},
    {0},
};
