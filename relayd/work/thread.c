#include "relayd/work/thread.h"

#include <signal.h>
#include <string.h>

#include "relayd/work/inhand.h"

enum err_code
thread_start(pthread_t *ret, const char *name, void *(*run)(void *arg), void *arg, struct err *err)
{
    sigset_t all, before;

    sigfillset(&all);
    inhand_unblock(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(ret, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        return err_set(err, ERR_AGAIN, "no thread %s: %s", name, strerror(rc));
    pthread_setname_np(*ret, name);
    return ERR_OK;
}
