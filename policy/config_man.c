/* relayd.yaml(5) out of the option table; etc/man/relayd.yaml.5 is this, and a test compares. */
#include "policy/config_schema.h"

#include <string.h>

#include "policy/base/mem.h"

/* Text for roff: backslashes and leading dots and quotes are escaped, '-' stays a minus. */
static void
print_text(FILE *out, const char *text)
{
    if (text[0] == '.' || text[0] == '\'')
        fputs("\\&", out);
    for (; *text != '\0'; text++) {
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else if (*text == '`')
            fputs("\\(oq", out);
        else if (*text == '\'')
            fputs("\\(cq", out);
        else
            fputc(*text, out);
    }
}

static void
print_option(FILE *out, const struct option *option)
{
    char form[256];
    fputs(".TP\n.B ", out);
    print_text(out, option->path);
    fputs("\n", out);
    print_text(out, option->doc);
    fputs("\n.br\n", out);
    config_schema_form(option, form, sizeof(form));
    fputs("Holds ", out);
    print_text(out, form);
    fputs(".", out);
    if (option->required)
        fputs(" Required.", out);
    if (option->value != NULL) {
        fputs(" Default: ", out);
        print_text(out, option->value);
        fputs(".", out);
    }
    if (option->example != NULL) {
        fputs(" Example: ", out);
        print_text(out, option->example);
        fputs(".", out);
    }
    fputs("\n", out);
}

static const char head[] =
    ".\\\" Rendered from the option table (policy/config_schema.c); change it there.\n"
    ".TH RELAYD.YAML 5 \"\" \"relayd\" \"File formats\"\n"
    ".SH NAME\n"
    "relayd.yaml \\- configuration of the outbound SMTP relay relayd\n"
    ".SH DESCRIPTION\n"
    "The file is YAML (JSON will do). Anchors, aliases, tags, merge keys, duplicate and unknown "
    "keys\n"
    "are errors, and so are values of the wrong form or out of range. All problems are reported "
    "at\n"
    "once, as\n"
    ".IR FILE : LINE : COLUMN :\\ path:\\ what\\ is\\ wrong,\\ expected\\ what ;\n"
    "warnings carry the word \\(lqwarning:\\(rq behind the path and do not keep the file from "
    "being\n"
    "used.\n"
    ".PP\n"
    "Durations are a number and one of ms, s, m, h, d; sizes a number and one of B, KiB, MiB, "
    "GiB,\n"
    "TiB; rates a number and one of /s, /min, /h, /day. Domain names may be given in any case, as\n"
    "A\\-labels or U\\-labels. Paths are relative to the file that names them.\n"
    ".PP\n"
    "Secrets (private_key_file, key_file, password_file, secret_file, token_file, users_file) are\n"
    "refused when others can read or write them; the group may. They are read as\n"
    ".BR user ,\n"
    "at start as at reload.\n"
    ".PP\n"
    "A daemon that serves can read the directories, with all below them, of the files that were\n"
    "named when it started, and /etc, /usr and /run/secrets (Linux with Landlock). A reload that\n"
    "names a file elsewhere is refused and says that a restart is needed. Renewed certificates and "
    "new\n"
    "files beside the configuration need none.\n"
    ".PP\n"
    "In the paths below, [] stands for an entry of a list and * for a name of your choice.\n"
    ".SH OPTIONS\n";

static const char routing[] =
    ".SH RULES\n"
    "For each recipient the rules of transport_map are tried from the top; the first whose "
    "matchers\n"
    "all hold decides. The rules of included files stand before the default rule. The never_via "
    "of\n"
    "every rule whose matchers hold applies, wherever the rule stands, also when no route is "
    "left.\n"
    ".PP\n"
    "Domains compare in canonical form; *.abc.com is any depth of subdomains of abc.com, and not\n"
    "abc.com. Local parts compare with the case of ASCII letters ignored, and without quotes.\n"
    "The null sender is matched by <> alone.\n"
    ".SH SEE ALSO\n"
    ".BR relayd (8),\n"
    ".BR relayctl (1)\n";

void
config_schema_print_man(FILE *out)
{
    fputs(head, out);
    for (size_t i = 0; i < config_schema_n; i++)
        print_option(out, &config_schema[i]);
    fputs(routing, out);
}
