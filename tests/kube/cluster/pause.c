/* What holds a pod's namespaces: waits, and ends when it is told to. */
#include <signal.h>
#include <unistd.h>

static void end(int sig) { _exit(0); }

int main(void) {
    signal(SIGTERM, end);
    signal(SIGINT, end);
    for (;;) pause();
}
