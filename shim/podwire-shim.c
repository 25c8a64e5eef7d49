/* The CNI plugin's executable: it forwards one call to the node's agent and prints the answer; it decides nothing.
 *
 * Request on the unix socket: u32 length, the environment (our role, CNI_*) as NUL-ended strings, u32 length, stdin;
 * lengths in host order; the descriptor of CNI_NETNS goes along with the first byte. Reply: one byte (the exit code),
 * u32 length, what belongs on stdout; a reply that ends early counts as none. Where no agent answers: ADD, CHECK and GC
 * fail with code 11 (try again later), STATUS with 50; DEL is kept durably in the spool, as the file
 * ROLE,CONTAINERID,IFNAME, for the agent to do before any later ADD of that attachment, and succeeds. An agent that
 * answers slowly is waited for: how long a call may take is the runtime's to say, and its signal ends us.
 * The file podwire.paths beside the executable may hold the socket's path and the spool's, one a line.
 *
 * It needs no C library where we know how the processor calls the kernel: the library's start alone takes three times as
 * long as everything here (it asks the processor for its features, which a virtual machine has to ask its host for).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>

#ifdef WITH_LIBC
#include <string.h>
#include <unistd.h>
static long call6(long number, long a, long b, long c, long d, long e, long f) {
    long result = syscall(number, a, b, c, d, e, f);
    return result < 0 ? -errno : result;
}
#else
#if defined(__x86_64__)
__asm__(".globl _start\n_start: xor %ebp,%ebp\n mov %rsp,%rdi\n and $-16,%rsp\n call begin\n");
static long call6(long number, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return number;
}
#elif defined(__aarch64__)
__asm__(".globl _start\n_start: mov x29,#0\n mov x0,sp\n and sp,x0,#-16\n bl begin\n");
static long call6(long number, long a, long b, long c, long d, long e, long f) {
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "no way into the kernel is known for this processor: compile with -DWITH_LIBC"
#endif
void *memcpy(void *to, const void *from, size_t count) {
    for (size_t i = 0; i < count; i++) ((char *)to)[i] = ((const char *)from)[i];
    return to;
}
void *memset(void *to, int byte, size_t count) {
    for (size_t i = 0; i < count; i++) ((char *)to)[i] = (char)byte;
    return to;
}
size_t strlen(const char *text) {
    size_t size = 0;
    while (text[size]) size++;
    return size;
}
int strncmp(const char *one, const char *other, size_t count) {
    for (; count && *one && *one == *other; count--) one++, other++;
    return count ? (unsigned char)*one - (unsigned char)*other : 0;
}
char *strchr(const char *text, int byte) {
    for (;; text++) {
        if (*text == (char)byte) return (char *)text;
        if (!*text) return NULL;
    }
}
#endif
#define SYS(name, ...) CALL(SYS_##name, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define CALL(number, a, b, c, d, e, f, ...) \
    call6(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

#define SUPPORTED "\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\""
enum { LIMIT = 1 << 20, HEAD = 5, VERSION_MS = 1000 };

static char **variables;
static char request[2 * LIMIT + 16], reply[HEAD + LIMIT], version[16] = "1.0.0";
static char socket_path[PATH_MAX] = "/run/podwire/cni.sock", spool_path[PATH_MAX] = "/var/lib/podwire/cni-spool";
static size_t length;

static void leave(int code) {
    for (;;) SYS(exit_group, code);
}

static int same(const char *one, const char *other) { return !strncmp(one, other, strlen(one) + 1); }

static const char *variable(const char *name) {
    size_t size = strlen(name);
    for (char **entry = variables; *entry; entry++)
        if (!strncmp(*entry, name, size) && (*entry)[size] == '=') return *entry + size + 1;
    return NULL;
}

static int print(int fd, const char *text, size_t size) {
    for (size_t done = 0; done < size;) {
        long put = SYS(write, fd, text + done, size - done);
        if (put < 0 && put != -EINTR) return -1; /* nobody is listening any more */
        if (put > 0) done += put;
    }
    return 0;
}

static char line[4 * PATH_MAX];
static size_t written;

static void say(const char *text) {
    for (; *text && written < sizeof line; text++) line[written++] = *text;
}

static const char *words(long error) { /* of what can go wrong here */
    static const struct { int number; const char *text; } known[] = {
        {EIO, "Input/output error"}, {EBADF, "Bad file descriptor"}, {ENOSPC, "No space left on device"},
        {EROFS, "Read-only file system"}, {EACCES, "Permission denied"}, {EPERM, "Operation not permitted"},
        {ENOTDIR, "Not a directory"}, {EISDIR, "Is a directory"}, {ENOENT, "No such file or directory"},
        {EDQUOT, "Disk quota exceeded"}, {EMFILE, "Too many open files"}, {ENFILE, "Too many open files in system"},
        {ELOOP, "Too many levels of symbolic links"}, {ENAMETOOLONG, "File name too long"}};
    static char other[16] = "error ";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].number == -error) return known[i].text;
    size_t at = 6;
    for (long part = 1000; part; part /= 10)
        if (-error >= part) other[at++] = (char)('0' + -error / part % 10);
    return other;
}

static void fail(int code, const char *msg, const char *details) {
    char number[3] = {(char)('0' + code / 10), (char)('0' + code % 10), 0};
    say("{\"cniVersion\":\""), say(version), say("\",\"code\":"), say(number + (code < 10)), say(",\"msg\":\"");
    say(msg), say("\",\"details\":\"");
    for (const char *c = details; *c; c++)
        say(*c < ' ' || *c > '~' ? "?" : *c == '"' ? "\\\"" : *c == '\\' ? "\\\\" : (char[]){*c, 0});
    say("\"}\n");
    print(1, line, written);
    leave(1);
}

static const char *past(const char *text, const char *bytes) { /* all of these in front */
    while (*text && strchr(bytes, *text)) text++;
    return text;
}

static void note_version(const char *config) { /* only to echo it */
    static const char key[] = "\"cniVersion\"", blanks[] = " \t\r\n";
    while (*config && strncmp(config, key, sizeof key - 1)) config++;
    if (!*config) return;
    config = past(config + sizeof key - 1, blanks);
    if (*config != ':') return;
    config = past(config + 1, blanks);
    if (*config++ != '"') return;
    size_t size = past(config, "0123456789.") - config;
    if (size == 0 || size >= sizeof version || config[size] != '"') return;
    memcpy(version, config, size);
    version[size] = 0;
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
    for (char **entry = variables; *entry; entry++)
        if (!strncmp(*entry, "CNI_", 4) || !strncmp(*entry, "TRACEPARENT=", 12)) append(*entry, strlen(*entry) + 1, 0);
    close_part(0);
}

static void append_stdin(void) {
    size_t start = length, end = start + 4 + LIMIT + 1;
    for (length += 4; length < end;) {
        long got = SYS(read, 0, request + length, end - length);
        if (got == -EINTR) continue;
        if (got < 0) fail(5, "cannot read the configuration from stdin", words(got));
        if (got == 0) break;
        length += got;
    }
    request[length < end ? length : end - 1] = 0;
    note_version(request + start + 4);
    if (length == end) fail(5, "the configuration on stdin is too large", "the limit is 1 MiB");
    close_part(start);
}

static char *take_line(char *text, char *to) { /* what follows it, or NULL */
    size_t size = 0;
    while (text[size] && text[size] != '\n') size++;
    if (size == 0 || size >= PATH_MAX) return NULL;
    memcpy(to, text, size);
    to[size] = 0;
    return (char *)past(text + size, " \t\r\n");
}

static void read_paths(void) {
    static const char file[] = "podwire.paths";
    static char name[PATH_MAX + sizeof file], text[2 * PATH_MAX + 2];
    long size = SYS(readlinkat, AT_FDCWD, "/proc/self/exe", name, PATH_MAX - 1);
    if (size <= 0) return;
    while (size && name[size - 1] != '/') size--;
    memcpy(name + size, file, sizeof file); /* whichever name we are called by */
    long fd = SYS(openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    SYS(read, fd, text, sizeof text - 1);
    SYS(close, fd);
    char *second = take_line(text, socket_path);
    if (!second || !take_line(second, spool_path)) fail(5, "the file of paths does not hold two lines", name);
}

static int call(int netns) { /* the connected socket with the request sent, or -1 */
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (strlen(socket_path) >= sizeof to.sun_path) return -1;
    memcpy(to.sun_path, socket_path, strlen(socket_path) + 1);
    long fd = SYS(socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || SYS(connect, fd, &to, sizeof to)) return -1;
    union { struct cmsghdr header; char room[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct iovec part = {request, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (netns >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        control.header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &netns, sizeof netns);
    }
    long sent = SYS(sendmsg, fd, &message, MSG_NOSIGNAL);
    for (size_t done = sent; sent > 0 && done < length; done += sent)
        sent = SYS(sendto, fd, request + done, length - done, MSG_NOSIGNAL, 0, 0);
    return (int)fd; /* an agent that refused before it had read all has answered none the less */
}

static int answer(int fd) { /* prints the reply; the exit code, or -1 when no whole reply came */
    size_t have = 0, wanted = HEAD;
    while (have < wanted) {
        long got = SYS(read, fd, reply + have, sizeof reply - have);
        if (got == -EINTR) continue;
        if (got <= 0) return -1;
        have += got;
        uint32_t size;
        memcpy(&size, reply + 1, 4);
        if (have >= HEAD && size > LIMIT) return -1;
        if (have >= HEAD) wanted = HEAD + size;
    }
    return print(1, reply + HEAD, wanted - HEAD) ? 1 : reply[0];
}

#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

static int is_identifier(const char *name, size_t limit) {
    return *name && !*past(name, LETTERS "_.-") && strlen(name) <= limit && strchr(LETTERS, *name);
}

static int is_interface(const char *name) {
    if (!*name || strlen(name) > 15 || same(name, ".") || same(name, "..")) return 0;
    for (; *name; name++)
        if (strchr("/: \t\n\v\f\r", *name)) return 0;
    return 1;
}

static void spool(const char *role, const char *id, const char *interface) {
    static char temporary[16] = ".";
    id = id ? id : "";
    interface = interface ? interface : "";
    if (!is_identifier(role, 24)) fail(4, "the plugin was called by an impossible name", role);
    if (!is_identifier(id, 200)) fail(4, "CNI_CONTAINERID is missing or no identifier", id);
    if (!is_interface(interface)) fail(4, "CNI_IFNAME is missing or no interface name", interface);
    written = 0;
    say(role), say(","), say(id), say(","), say(interface);
    line[written] = 0; /* the name: never longer than 241 bytes */
    size_t at = 1;
    for (long pid = SYS(getpid, 0), part = 1000000000; part; part /= 10)
        if (pid >= part) temporary[at++] = (char)('0' + pid / part % 10);
    SYS(mkdirat, AT_FDCWD, spool_path, 0700);
    long directory = SYS(openat, AT_FDCWD, spool_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1, error = directory;
    if (directory >= 0) {
        fd = SYS(openat, directory, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        error = fd < 0 ? fd : SYS(write, fd, request, length);
        if (error >= 0) error = error < (long)length ? -ENOSPC : SYS(fsync, fd);
        if (!error) error = SYS(renameat2, directory, temporary, directory, line, 0);
        if (!error) error = SYS(fsync, directory);
    }
    if (!error) return;
    if (fd >= 0) SYS(unlinkat, directory, temporary, 0);
    written = 0;
    fail(11, "the Podwire agent does not answer and the spool cannot be written", words(error));
}

static int print_version(void) {
    struct pollfd input = {.fd = 0, .events = POLLIN};
    struct timespec patience = {.tv_sec = 1};
    char terminal[64];
    memcpy(version, "1.1.0", 6);
    int waits = SYS(ioctl, 0, 0x5401 /* TCGETS */, terminal) < 0;
    if (waits && SYS(ppoll, &input, 1, &patience, 0, 0) > 0 && SYS(read, 0, request, LIMIT) > 0) note_version(request);
    say("{\"cniVersion\":\""), say(version), say("\",\"supportedVersions\":[" SUPPORTED "]}\n");
    return print(1, line, written) != 0;
}

static int serve(const char *name) {
    static const char human[] = "Podwire CNI plugin; CNI versions " SUPPORTED "\n";
    const char *command = variable("CNI_COMMAND"), *path = variable("CNI_NETNS"), *role = name;
    for (; *name; name++)
        if (*name == '/') role = name + 1;
    if (!command || !*command) return print(2, human, sizeof human - 1), 0;
    unsigned long ignored[8] = {1 /* SIG_IGN */};
    SYS(rt_sigaction, 13 /* SIGPIPE */, ignored, 0, 8);
    if (same(command, "VERSION")) return print_version();
    append_environment(role);
    append_stdin();
    read_paths();
    int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY; /* a FIFO must not hold us */
    int fd = call(path && *path ? (int)SYS(openat, AT_FDCWD, path, flags) : -1);
    int code = fd < 0 ? -1 : answer(fd);
    if (code >= 0) return code;
    if (same(command, "STATUS")) fail(50, "the Podwire agent is not available", socket_path);
    if (!same(command, "DEL")) fail(11, "the Podwire agent does not answer, try again later", socket_path);
    spool(role, variable("CNI_CONTAINERID"), variable("CNI_IFNAME"));
    return 0;
}

#ifdef WITH_LIBC
int main(int count, char **arguments, char **environment) {
    variables = environment;
    return serve(count ? arguments[0] : "podwire");
}
#else
__attribute__((used)) void begin(long *stack) { /* the count of arguments, they and NULL, the variables and NULL */
    variables = (char **)(stack + stack[0] + 2);
    leave(serve(stack[0] ? (char *)stack[1] : "podwire"));
}
#endif
