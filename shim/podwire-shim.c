/* The CNI plugin's executable: it forwards one call to the node's agent and prints the answer; it decides nothing.
 *
 * Request on the unix socket: u32 length, the environment (our role, CNI_*) as NUL-ended strings, u32 length, stdin;
 * lengths in host order; the descriptor of CNI_NETNS goes along with the first byte. Reply: one byte (the exit code),
 * then what belongs on stdout, up to the end of the stream. Where no agent answers: ADD and CHECK fail with code 11
 * (try again later), STATUS with 50, DEL is kept durably in the spool for the agent's next start and succeeds.
 * A file NAME.paths beside the executable NAME may hold the socket's path and the spool's, one a line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SUPPORTED "\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""
enum { LIMIT = 1 << 20 };

extern char **environ;
static char request[2 * LIMIT + 16], socket_path[PATH_MAX] = "/run/podwire/cni.sock";
static char spool_path[PATH_MAX] = "/var/lib/podwire/cni-spool", version[16] = "1.0.0";
static size_t length;

static void fail(int code, const char *msg, const char *details) {
    printf("{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", version, code, msg, details);
    exit(1);
}

static void append(const void *bytes, size_t count) {
    if (count > sizeof request - length) fail(4, "environment or configuration is too large", "the limit is 1 MiB");
    memcpy(request + length, bytes, count);
    length += count;
}

static void append_environment(const char *role) {
    size_t start = length;
    append(&(uint32_t){0}, 4);
    append("PODWIRE_ROLE=", 13);
    append(role, strlen(role) + 1);
    for (char **entry = environ; *entry; entry++)
        if (!strncmp(*entry, "CNI_", 4) || !strncmp(*entry, "TRACEPARENT=", 12)) append(*entry, strlen(*entry) + 1);
    uint32_t size = length - start - 4;
    memcpy(request + start, &size, 4);
}

static void append_stdin(void) {
    size_t start = length;
    append(&(uint32_t){0}, 4);
    for (;;) {
        size_t room = sizeof request - 1 - length;
        ssize_t got = room ? read(0, request + length, room) : -1;
        if (got < 0 && room && errno == EINTR) continue;
        if (got < 0) fail(5, "cannot read the configuration from stdin", room ? strerror(errno) : "it is too large");
        if (got == 0) break;
        length += got;
    }
    uint32_t size = length - start - 4;
    memcpy(request + start, &size, 4);
    const char *key = strstr(request + start + 4, "\"cniVersion\""); /* only to echo it in errors */
    if (key) sscanf(key + 12, " : \"%15[0-9.]\"", version);
}

static void read_paths(void) {
    char name[PATH_MAX + 8];
    ssize_t size = readlink("/proc/self/exe", name, PATH_MAX);
    if (size <= 0) return;
    strcpy(name + size, ".paths");
    FILE *file = fopen(name, "re");
    if (!file) return;
    if (fscanf(file, "%4095s %4095s", socket_path, spool_path) < 1) fail(5, "cannot read the file of paths", name);
    fclose(file);
}

static int call(int netns) { /* the connected socket with the request sent, or -1 */
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (strlen(socket_path) >= sizeof to.sun_path) return errno = ENAMETOOLONG, -1;
    strcpy(to.sun_path, socket_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (void *)&to, sizeof to)) return -1;
    union { struct cmsghdr header; char room[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct iovec part = {request, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (netns >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        control.header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &netns, sizeof netns);
    }
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    for (size_t done = sent; sent > 0 && done < length; done += sent)
        sent = send(fd, request + done, length - done, MSG_NOSIGNAL);
    return sent < 0 ? -1 : fd;
}

static int answer(int fd) { /* prints the reply; the exit code, or -1 when the agent went away first */
    char reply[65536];
    ssize_t got = recv(fd, reply, sizeof reply, 0);
    if (got <= 0) return -1;
    int code = reply[0];
    for (char *from = reply + 1, *end = reply + got; got > 0; from = reply, end = reply + got) {
        fwrite(from, 1, end - from, stdout);
        got = recv(fd, reply, sizeof reply, 0);
    }
    return fflush(stdout) ? -1 : code;
}

static void spool(const char *id, const char *interface) {
    char name[NAME_MAX], temporary[NAME_MAX + 2];
    if (!id || !interface || strchr(id, '/') || strchr(interface, '/')) fail(4, "CNI_CONTAINERID and CNI_IFNAME are required", "");
    snprintf(name, sizeof name, "%s.%s", id, interface);
    snprintf(temporary, sizeof temporary, ".%s", name);
    mkdir(spool_path, 0700);
    int directory = open(spool_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int fd = directory < 0 ? -1 : openat(directory, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, request, length) != (ssize_t)length || fsync(fd) ||
        renameat(directory, temporary, directory, name) || fsync(directory))
        fail(11, "the agent does not answer and the spool cannot be written", strerror(errno));
}

int main(int count, char **arguments) {
    const char *command = getenv("CNI_COMMAND"), *path = getenv("CNI_NETNS");
    if (!command) return fputs("Podwire CNI plugin; CNI versions " SUPPORTED "\n", stderr), 0;
    if (!strcmp(command, "VERSION"))
        return printf("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[" SUPPORTED "]}\n"), 0;
    read_paths();
    append_environment(count ? basename(arguments[0]) : "podwire");
    append_stdin();
    int fd = call(path && *path ? open(path, O_RDONLY | O_CLOEXEC) : -1);
    int code = fd < 0 ? -1 : answer(fd);
    if (code >= 0) return code;
    if (!strcmp(command, "STATUS")) fail(50, "the Podwire agent is not available", socket_path);
    if (strcmp(command, "DEL")) fail(11, "the Podwire agent does not answer, try again later", socket_path);
    spool(getenv("CNI_CONTAINERID"), getenv("CNI_IFNAME"));
    return 0;
}
