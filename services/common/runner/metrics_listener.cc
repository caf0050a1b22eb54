#include "services/common/runner/metrics_listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <prometheus/exposer.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace intermezzo {
namespace {

// Connects to a listener of this process and hangs up; its errors do not matter.
void Knock(const ListenAddress& address) {
  sockaddr_in v4 = {};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(static_cast<uint16_t>(address.port));
  sockaddr_in6 v6 = {};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = v4.sin_port;
  const bool is_v4 = inet_pton(AF_INET, address.host.c_str(), &v4.sin_addr) == 1;
  if (!is_v4 && inet_pton(AF_INET6, address.host.c_str(), &v6.sin6_addr) != 1) return;
  const int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  if (is_v4) {
    static_cast<void>(connect(fd, reinterpret_cast<sockaddr*>(&v4), sizeof(v4)));
  } else {
    static_cast<void>(connect(fd, reinterpret_cast<sockaddr*>(&v6), sizeof(v6)));
  }
  close(fd);
}

}  // namespace

MetricsListener::MetricsListener() = default;

MetricsListener::~MetricsListener() {
  if (exposer_ == nullptr) return;
  // The HTTP server sees that it is to stop only when its accepting thread wakes, which takes up to
  // two seconds; a connection wakes it.
  absl::Notification stopped;
  std::thread knocker([&] {
    do {
      Knock(address_);
    } while (!stopped.WaitForNotificationWithTimeout(absl::Milliseconds(10)));
  });
  exposer_.reset();
  stopped.Notify();
  knocker.join();
}

absl::StatusOr<std::unique_ptr<MetricsListener>> MetricsListener::Start(
    const ListenAddress& address, std::string_view component, std::string_view version) {
  std::unique_ptr<MetricsListener> listener(new MetricsListener);
  listener->address_ = address;
  listener->registry_ = std::make_shared<prometheus::Registry>();
  listener->process_ = std::make_shared<ProcessMetrics>();
  prometheus::BuildGauge()
      .Name("intermezzo_build_info")
      .Help("Always 1; the labels say what runs.")
      .Register(*listener->registry_)
      .Add({{"component", std::string(component)}, {"version", std::string(version)}})
      .Set(1);
  try {
    listener->exposer_ = std::make_unique<prometheus::Exposer>(address.str(), 2);
    listener->exposer_->RegisterCollectable(listener->registry_);
    listener->exposer_->RegisterCollectable(listener->process_);
    const std::vector<int> ports = listener->exposer_->GetListeningPorts();
    if (ports.size() == 1) listener->address_.port = ports[0];
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen for metrics on ", address.str(), ": ", error.what()));
  }
  return listener;
}

}  // namespace intermezzo
