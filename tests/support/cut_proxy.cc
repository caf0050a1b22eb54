// A TCP proxy that can be cut and mended, between a node and its server.
//
//   cut_proxy serve --control SOCKET --address-file FILE --forward NAME=LISTEN=TARGET...
//   cut_proxy ctl SOCKET cut|reset|mend|count
//
// cut: nothing passes and nothing is closed, as where a cable is pulled; what was under way passes
// after `mend`. reset: connections are reset and new ones too, as where a host went down. count:
// how many bytes came from the server so far. FILE gets "NAME: host:port" of each listener when it
// serves. One thread, one poll loop.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <list>
#include <string>
#include <vector>

namespace {

constexpr size_t kBufferBytes = 256 * 1024;  // per direction; full: the sender waits

[[noreturn]] void Die(const std::string& what) {
  std::cerr << "cut_proxy: " << what << (errno != 0 ? std::string(": ") + strerror(errno) : "")
            << std::endl;
  std::exit(1);
}

sockaddr_in ParseAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  errno = 0;
  if (colon == std::string::npos ||
      inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr) != 1) {
    Die("'" + text + "' is not an IPv4 host:port");
  }
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(text.substr(colon + 1))));
  return address;
}

std::string AddressOf(int socket_fd) {
  sockaddr_in address = {};
  socklen_t length = sizeof(address);
  if (getsockname(socket_fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    Die("getsockname");
  }
  char host[INET_ADDRSTRLEN];
  inet_ntop(AF_INET, &address.sin_addr, host, sizeof(host));
  return std::string(host) + ":" + std::to_string(ntohs(address.sin_port));
}

sockaddr_un UnixAddress(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  errno = 0;
  if (path.size() >= sizeof(address.sun_path)) Die("'" + path + "' is too long for a socket");
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

// Bytes on their way from one socket to the other.
struct Direction {
  std::string buffer;
  bool ended = false;     // the source sent its end
  bool end_sent = false;  // and the sink was told
};

struct Connection {
  int client = -1;
  int server = -1;
  bool connected = false;  // to the server
  Direction up;            // client to server
  Direction down;
  bool dead = false;
};

struct Listener {
  std::string name;
  int fd;
  sockaddr_in target;
};

enum class Line { kOpen, kCut, kReset };

void CloseWithReset(int fd) {
  const linger now = {.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close(fd);
}

// Reads what there is room for. False where the connection broke.
bool Fill(int source, Direction& direction) {
  char chunk[64 * 1024];
  const ssize_t n = read(source, chunk, sizeof(chunk));
  if (n > 0) direction.buffer.append(chunk, n);
  if (n == 0) direction.ended = true;
  return n >= 0 || errno == EAGAIN || errno == EINTR;
}

bool Drain(int sink, Direction& direction) {
  if (!direction.buffer.empty()) {
    const ssize_t n = send(sink, direction.buffer.data(), direction.buffer.size(), MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    direction.buffer.erase(0, n);
  }
  if (direction.buffer.empty() && direction.ended && !direction.end_sent) {
    shutdown(sink, SHUT_WR);
    direction.end_sent = true;
  }
  return true;
}

class Proxy {
 public:
  Proxy(std::vector<Listener> listeners, int control)
      : listeners_(std::move(listeners)), control_(control) {}

  [[noreturn]] void Run() {
    while (true) {
      std::vector<pollfd> fds = {{control_, POLLIN, 0}};
      for (const Listener& listener : listeners_) {
        fds.push_back({line_ == Line::kCut ? -1 : listener.fd, POLLIN, 0});
      }
      const size_t first_connection = fds.size();
      for (const Connection& connection : connections_) AddPollFds(connection, fds);
      if (poll(fds.data(), fds.size(), -1) < 0) {
        if (errno == EINTR) continue;
        Die("poll");
      }
      size_t at = first_connection;
      for (Connection& connection : connections_) {
        Serve(connection, fds[at].revents, fds[at + 1].revents);
        at += 2;
      }
      for (size_t i = 0; i < listeners_.size(); ++i) {
        if (fds[1 + i].revents & POLLIN) Accept(listeners_[i]);
      }
      if (fds[0].revents & POLLIN) Control();
      connections_.remove_if([](const Connection& connection) { return connection.dead; });
    }
  }

 private:
  void AddPollFds(const Connection& connection, std::vector<pollfd>& fds) const {
    short client = 0;
    short server = 0;
    if (!connection.up.ended && connection.up.buffer.size() < kBufferBytes) client |= POLLIN;
    if (!connection.down.buffer.empty()) client |= POLLOUT;
    if (!connection.connected) {
      server |= POLLOUT;
    } else {
      if (!connection.down.ended && connection.down.buffer.size() < kBufferBytes) server |= POLLIN;
      if (!connection.up.buffer.empty()) server |= POLLOUT;
    }
    // A negative fd is not looked at, not even for errors: nothing passes while the line is cut.
    const bool cut = line_ == Line::kCut;
    fds.push_back({cut || client == 0 ? -1 : connection.client, client, 0});
    fds.push_back({cut || server == 0 ? -1 : connection.server, server, 0});
  }

  void Serve(Connection& connection, short client, short server) {
    bool alive = true;
    if (!connection.connected && server != 0) {
      int error = 0;
      socklen_t length = sizeof(error);
      getsockopt(connection.server, SOL_SOCKET, SO_ERROR, &error, &length);
      alive = error == 0;
      connection.connected = alive;
    } else if (connection.connected && (server & (POLLIN | POLLERR | POLLHUP))) {
      const size_t before = connection.down.buffer.size();
      alive = Fill(connection.server, connection.down);
      from_server_ += connection.down.buffer.size() - before;
    }
    if (alive && (client & (POLLIN | POLLERR | POLLHUP))) {
      alive = Fill(connection.client, connection.up);
    }
    if (alive && connection.connected && (client | server) != 0) {
      alive = Drain(connection.server, connection.up) && Drain(connection.client, connection.down);
    }
    if (!alive || (connection.up.end_sent && connection.down.end_sent)) Close(connection, !alive);
  }

  void Accept(const Listener& listener) {
    const int client = accept4(listener.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0) return;
    if (line_ == Line::kReset) {
      CloseWithReset(client);
      return;
    }
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (server < 0) Die("socket");
    const int one = 1;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    const int result = connect(server, reinterpret_cast<const sockaddr*>(&listener.target),
                               sizeof(listener.target));
    if (result != 0 && errno != EINPROGRESS) {
      CloseWithReset(client);
      close(server);
      return;
    }
    Connection& connection = connections_.emplace_back();
    connection.client = client;
    connection.server = server;
  }

  void Control() {
    const int fd = accept4(control_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    // The caller is our own `ctl`, which writes at once; one that does not is dropped.
    const timeval patience = {.tv_sec = 1, .tv_usec = 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    char text[16] = {};
    const ssize_t n = read(fd, text, sizeof(text) - 1);
    const std::string command(text, n > 0 ? n : 0);
    std::string answer = "ok";
    if (command == "cut") {
      line_ = Line::kCut;
    } else if (command == "mend") {
      line_ = Line::kOpen;
    } else if (command == "reset") {
      line_ = Line::kReset;
      for (Connection& connection : connections_) Close(connection, true);
    } else if (command == "count") {
      answer += " " + std::to_string(from_server_);
    } else {
      answer = "unknown command '" + command + "': use cut, reset, mend or count";
    }
    (void)!write(fd, answer.data(), answer.size());
    close(fd);
  }

  static void Close(Connection& connection, bool reset) {
    if (connection.dead) return;
    connection.dead = true;
    for (const int fd : {connection.client, connection.server}) {
      if (reset) {
        CloseWithReset(fd);
      } else {
        close(fd);
      }
    }
  }

  const std::vector<Listener> listeners_;
  const int control_;
  std::list<Connection> connections_;
  uint64_t from_server_ = 0;  // bytes
  Line line_ = Line::kOpen;
};

Listener MakeListener(const std::string& argument) {
  const size_t first = argument.find('=');
  const size_t second = first == std::string::npos ? first : argument.find('=', first + 1);
  errno = 0;
  if (second == std::string::npos) Die("'" + argument + "' is not NAME=LISTEN=TARGET");
  const sockaddr_in listen_at = ParseAddress(argument.substr(first + 1, second - first - 1));
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (bind(fd, reinterpret_cast<const sockaddr*>(&listen_at), sizeof(listen_at)) != 0 ||
      listen(fd, 64) != 0) {
    Die("cannot listen for '" + argument + "'");
  }
  return {argument.substr(0, first), fd, ParseAddress(argument.substr(second + 1))};
}

int Serve(const std::vector<std::string>& arguments) {
  std::string control_path;
  std::string address_file;
  std::vector<Listener> listeners;
  for (size_t i = 0; i + 1 < arguments.size(); i += 2) {
    if (arguments[i] == "--control") control_path = arguments[i + 1];
    if (arguments[i] == "--address-file") address_file = arguments[i + 1];
    if (arguments[i] == "--forward") listeners.push_back(MakeListener(arguments[i + 1]));
  }
  errno = 0;
  if (control_path.empty() || address_file.empty() || listeners.empty()) {
    Die("serve needs --control SOCKET, --address-file FILE and --forward NAME=LISTEN=TARGET");
  }
  const int control = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_un address = UnixAddress(control_path);
  unlink(control_path.c_str());
  if (bind(control, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(control, 8) != 0) {
    Die("cannot listen at " + control_path);
  }
  const std::string fresh = address_file + ".new";
  {
    std::ofstream out(fresh);
    for (const Listener& listener : listeners) {
      out << listener.name << ": " << AddressOf(listener.fd) << '\n';
    }
    if (!out.flush()) Die("cannot write " + fresh);
  }
  if (rename(fresh.c_str(), address_file.c_str()) != 0) Die("cannot write " + address_file);
  Proxy(std::move(listeners), control).Run();
}

int Ctl(const std::string& control_path, const std::string& command) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_un address = UnixAddress(control_path);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    Die("no proxy at " + control_path);
  }
  if (write(fd, command.data(), command.size()) < 0) Die("write");
  char answer[128] = {};
  const ssize_t n = read(fd, answer, sizeof(answer) - 1);
  if (n <= 0) Die("no answer");
  errno = 0;
  if (strncmp(answer, "ok", 2) != 0) Die(answer);
  if (answer[2] == ' ') std::cout << answer + 3 << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (!arguments.empty() && arguments[0] == "serve") {
    return Serve({arguments.begin() + 1, arguments.end()});
  }
  if (arguments.size() == 3 && arguments[0] == "ctl") return Ctl(arguments[1], arguments[2]);
  std::cerr << "usage: cut_proxy serve --control SOCKET --address-file FILE"
               " --forward NAME=LISTEN=TARGET...\n"
               "       cut_proxy ctl SOCKET cut|reset|mend|count\n";
  return 2;
}
