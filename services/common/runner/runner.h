// The one way to start a process: flags, configuration, logs, gRPC listener with health and
// reflection, Prometheus listener, signals, drain. A main.cc is a call of Run().
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "intermezzo/config/v1/config.pb.h"

namespace grpc {
class Service;
}
namespace prometheus {
class Registry;
}

namespace intermezzo {

// What a process is made of, built from its configuration. Owned by the runner.
class Application {
 public:
  virtual ~Application() = default;
  // gRPC services to register; alive as long as the application.
  virtual std::vector<grpc::Service*> Services() = 0;
  // Called once when the listener serves; `grpc_address` is host:port as chosen.
  virtual absl::Status Start(const std::string& grpc_address) { return absl::OkStatus(); }
  // Called on SIGTERM or SIGINT, while the listener still serves and health says NOT_SERVING:
  // flush, hand back, and end the streams that would not end by themselves. At most `timeout`.
  // Then the server shuts down (calls that do not end within a second are cancelled) and the object
  // is destroyed. Also called where Start failed.
  virtual void Drain(absl::Duration timeout) {}
};

// What the runner gives to an application.
struct RunnerContext {
  // Everything in it is exported over HTTP.
  std::shared_ptr<prometheus::Registry> metrics;
};

// Reads `argv` (--config FILE, --check-config, --version, --help), loads the YAML into `config`
// (a message whose field `runner` is a Runner), runs until a signal, returns the exit code:
// 0 drained, 1 failed (logged), 2 bad usage or configuration (names the field).
// `validate` checks the loaded configuration's own fields (required, ranges), also for
// --check-config; it changes nothing outside. INVALID_ARGUMENT of `build` is 2 as well.
int Run(int argc, char** argv, std::string_view component, google::protobuf::Message& config,
        const std::function<config::v1::Runner&()>& runner_config,
        const std::function<absl::StatusOr<std::unique_ptr<Application>>(RunnerContext&)>& build,
        const std::function<absl::Status()>& validate = {});

}  // namespace intermezzo
