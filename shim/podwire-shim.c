/* The CNI plugin's executable: it forwards one call to the node's agent and prints the answer; it decides nothing.
 *
 * Request on the unix socket: u32 length, the environment (our role, CNI_*) as NUL-ended strings, u32 length, stdin;
 * lengths in host order; the descriptor of CNI_NETNS goes along with the first byte. Reply: one byte (the exit code),
 * u32 length, what belongs on stdout; a reply that ends early counts as none. Where no agent answers: ADD, CHECK and GC
 * fail with code 11 (try again later), STATUS with 50; DEL is kept durably in the spool, as the file
 * ROLE,CONTAINERID,IFNAME, for the agent to do before any later ADD of that attachment, and succeeds. An agent that
 * answers slowly is waited for: how long a call may take is the runtime's to say, and its signal ends us.
 * The file podwire.paths beside the executable may hold the socket's path and the spool's, one a line.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SUPPORTED "\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""
enum { LIMIT = 1 << 20, HEAD = 5, VERSION_MS = 1000 };

extern char **environ;
static char request[2 * LIMIT + 16], reply[HEAD + LIMIT], version[16] = "1.0.0";
static char socket_path[PATH_MAX] = "/run/podwire/cni.sock", spool_path[PATH_MAX] = "/var/lib/podwire/cni-spool";
static size_t length;

static void fail(int code, const char *msg, const char *details) {
    printf("{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"%s\",\"details\":\"", version, code, msg);
    for (const unsigned char *c = (const void *)details; *c; c++)
        printf(*c < ' ' || *c > '~' ? "?" : *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
    printf("\"}\n");
    exit(1);
}

static void note_version(const char *config) { /* only to echo it */
    char found[16], quote[2];
    const char *key = strstr(config, "\"cniVersion\"");
    if (key && sscanf(key + 12, " : \"%15[0-9.]%1[\"]", found, quote) == 2) strcpy(version, found);
}

static void append(const void *bytes, size_t count, size_t start) {
    if (length + count > start + 4 + LIMIT) fail(4, "the CNI_ variables are too large", "the limit is 1 MiB");
    memcpy(request + length, bytes, count);
    length += count;
}

static void close_part(size_t start) {
    uint32_t size = length - start - 4;
    memcpy(request + start, &size, 4);
}

static void append_environment(const char *role) {
    length = 4;
    append("PODWIRE_ROLE=", 13, 0);
    append(role, strlen(role) + 1, 0);
    for (char **entry = environ; *entry; entry++)
        if (!strncmp(*entry, "CNI_", 4) || !strncmp(*entry, "TRACEPARENT=", 12)) append(*entry, strlen(*entry) + 1, 0);
    close_part(0);
}

static void append_stdin(void) {
    size_t start = length, end = start + 4 + LIMIT + 1;
    for (length += 4; length < end;) {
        ssize_t got = read(0, request + length, end - length);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail(5, "cannot read the configuration from stdin", strerror(errno));
        if (got == 0) break;
        length += got;
    }
    request[length < end ? length : end - 1] = 0;
    note_version(request + start + 4);
    if (length == end) fail(5, "the configuration on stdin is too large", "the limit is 1 MiB");
    close_part(start);
}

static void read_paths(void) {
    char name[PATH_MAX + 16];
    ssize_t size = readlink("/proc/self/exe", name, PATH_MAX);
    if (size <= 0) return;
    name[size] = 0;
    strcpy(strrchr(name, '/') + 1, "podwire.paths"); /* whichever name we are called by */
    FILE *file = fopen(name, "re");
    if (!file) return;
    if (fscanf(file, "%4095[^\n] %4095[^\n]", socket_path, spool_path) != 2)
        fail(5, "the file of paths does not hold two lines", name);
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
    return fd; /* an agent that refused before it had read all has answered none the less */
}

static int answer(int fd) { /* prints the reply; the exit code, or -1 when no whole reply came */
    size_t have = 0, wanted = HEAD;
    while (have < wanted) {
        ssize_t got = recv(fd, reply + have, sizeof reply - have, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return -1;
        have += got;
        uint32_t size;
        memcpy(&size, reply + 1, 4);
        if (have >= HEAD && size > LIMIT) return -1;
        if (have >= HEAD) wanted = HEAD + size;
    }
    for (size_t done = HEAD; done < wanted;) {
        ssize_t put = write(1, reply + done, wanted - done);
        if (put < 0 && errno != EINTR) return 1; /* nobody is listening any more */
        if (put > 0) done += put;
    }
    return reply[0];
}

static int is_identifier(const char *name, size_t limit) {
    size_t size = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-");
    return size && !name[size] && size <= limit && isalnum((unsigned char)*name);
}

static int is_interface(const char *name) {
    return *name && strlen(name) <= 15 && strcmp(name, ".") && strcmp(name, "..") && !strpbrk(name, "/: \t\n\v\f\r");
}

static void spool(const char *role, const char *id, const char *interface) {
    char name[NAME_MAX], temporary[NAME_MAX];
    id = id ? id : "";
    interface = interface ? interface : "";
    if (!is_identifier(role, 24)) fail(4, "the plugin was called by an impossible name", role);
    if (!is_identifier(id, 200)) fail(4, "CNI_CONTAINERID is missing or no identifier", id);
    if (!is_interface(interface)) fail(4, "CNI_IFNAME is missing or no interface name", interface);
    snprintf(name, sizeof name, "%s,%s,%s", role, id, interface);
    snprintf(temporary, sizeof temporary, ".%d", getpid());
    mkdir(spool_path, 0700);
    int directory = open(spool_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
    if (directory >= 0) fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    ssize_t put = fd < 0 ? -1 : write(fd, request, length);
    if (put >= 0 && put < (ssize_t)length) errno = ENOSPC;
    if (put == (ssize_t)length && !fsync(fd) && !renameat(directory, temporary, directory, name) && !fsync(directory))
        return;
    int error = errno;
    if (fd >= 0) unlinkat(directory, temporary, 0);
    fail(11, "the Podwire agent does not answer and the spool cannot be written", strerror(error));
}

static int print_version(void) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    strcpy(version, "1.1.0");
    if (!isatty(0) && poll(&input, 1, VERSION_MS) > 0 && read(0, request, LIMIT) > 0) note_version(request);
    printf("{\"cniVersion\":\"%s\",\"supportedVersions\":[" SUPPORTED "]}\n", version);
    return fflush(stdout) != 0;
}

int main(int count, char **arguments) {
    const char *command = getenv("CNI_COMMAND"), *path = getenv("CNI_NETNS");
    const char *role = count ? basename(arguments[0]) : "podwire";
    if (!command || !*command) return fputs("Podwire CNI plugin; CNI versions " SUPPORTED "\n", stderr), 0;
    signal(SIGPIPE, SIG_IGN);
    if (!strcmp(command, "VERSION")) return print_version();
    append_environment(role);
    append_stdin();
    read_paths();
    int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY; /* a FIFO must not hold us */
    int fd = call(path && *path ? open(path, flags) : -1);
    int code = fd < 0 ? -1 : answer(fd);
    if (code >= 0) return code;
    if (!strcmp(command, "STATUS")) fail(50, "the Podwire agent is not available", socket_path);
    if (strcmp(command, "DEL")) fail(11, "the Podwire agent does not answer, try again later", socket_path);
    spool(role, getenv("CNI_CONTAINERID"), getenv("CNI_IFNAME"));
    return 0;
}
