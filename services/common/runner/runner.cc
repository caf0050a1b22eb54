#include "services/common/runner/runner.h"

#include <errno.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "services/common/config/config.h"
#include "services/common/log/log.h"
#include "services/common/record/codec.h"
#include "services/common/rpc/keepalive.h"
#include "services/common/runner/health_service.h"
#include "services/common/runner/listen_address.h"
#include "services/common/runner/metrics_listener.h"
#include "services/common/runner/signals.h"
#include "services/common/status/errno.h"
#include "services/common/types/view.h"

namespace intermezzo {
namespace {

using config::v1::Runner;

constexpr int kExitDrained = 0;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

// Calls that are still open after Drain get this long.
constexpr absl::Duration kShutdownGrace = absl::Seconds(1);
// Beyond the drain timeout, for shutting down and destroying; then the process is ended.
constexpr absl::Duration kExitGrace = absl::Seconds(20);
// Each synchronous call takes a thread; more calls than this are refused.
constexpr int kMaxServerThreads = 1024;

// What a Runner message says, with the defaults filled in.
struct Settings {
  ListenAddress listen;
  ListenAddress metrics_listen;
  std::string address_file;
  absl::Duration drain_timeout;
};

absl::Status ReadSettings(const Runner& runner, std::string_view component, Settings* settings) {
  const std::string level = runner.log_level().empty() ? "info" : runner.log_level();
  if (absl::Status status = log::Init(component, level); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("runner.log_level: ", status.message()));
  }

  absl::StatusOr<ListenAddress> listen = ParseListenAddress(
      runner.listen().empty() ? "127.0.0.1:0" : runner.listen(), "runner.listen");
  if (!listen.ok()) return listen.status();
  settings->listen = *std::move(listen);
  if (!runner.insecure()) {
    return absl::InvalidArgumentError(
        "runner.insecure: must be true: TLS is not there yet, and plaintext must be asked for");
  }
  if (!settings->listen.IsLoopback()) {
    return absl::InvalidArgumentError(
        absl::StrCat("runner.listen: ", settings->listen.host,
                     " is not a loopback address, and plaintext is allowed on loopback only"));
  }

  absl::StatusOr<ListenAddress> metrics =
      ParseListenAddress(runner.metrics_listen().empty() ? "127.0.0.1:0" : runner.metrics_listen(),
                         "runner.metrics_listen");
  if (!metrics.ok()) return metrics.status();
  settings->metrics_listen = *std::move(metrics);

  settings->address_file = runner.address_file();
  settings->drain_timeout =
      DurationOr(runner.has_drain_timeout(), runner.drain_timeout(), absl::Seconds(10));
  if (settings->drain_timeout <= absl::ZeroDuration() || settings->drain_timeout > absl::Hours(1)) {
    return absl::InvalidArgumentError("runner.drain_timeout: must be over 0s and at most 1h");
  }
  return absl::OkStatus();
}

// gRPC's own messages as lines of our log.
void LogForGrpc(gpr_log_func_args* args) {
  const std::string where = absl::StrCat(args->file, ":", args->line);
  if (args->severity == GPR_LOG_SEVERITY_ERROR) {
    log::Warning(args->message, {{"library", "grpc"}, {"source", where}});
  } else {
    log::Debug(args->message, {{"library", "grpc"}, {"source", where}});
  }
}

absl::StatusOr<std::unique_ptr<grpc::Server>> StartServer(ListenAddress& address,
                                                          HealthService& health,
                                                          Application& application) {
  grpc::EnableDefaultHealthCheckService(false);  // ours has its descriptor linked
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();

  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address.str(), grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.SetResourceQuota(grpc::ResourceQuota("server").SetMaxThreads(kMaxServerThreads));
  // Two processes must not share a port without knowing.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  SetKeepalive(builder);
  health.AddTo(builder);
  for (grpc::Service* service : application.Services()) builder.RegisterService(service);

  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen for gRPC on ", address.str()));
  }
  address.port = port;
  return server;
}

// By rename, so that nobody reads half of it.
absl::Status WriteAddressFile(const Settings& settings) {
  const std::string& path = settings.address_file;
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  std::ofstream file(temporary, std::ios::trunc);
  file << "grpc: " << settings.listen.str() << "\nmetrics: " << settings.metrics_listen.str()
       << "\n";
  file.close();
  if (file.fail() || rename(temporary.c_str(), path.c_str()) != 0) {
    const absl::Status status =
        StatusFromErrno(errno == 0 ? EIO : errno, absl::StrCat("runner.address_file: ", path));
    unlink(temporary.c_str());
    return status;
  }
  return absl::OkStatus();
}

int Failed(std::string_view what, const absl::Status& status) {
  log::Error(what, {{"error", std::string(status.message())},
                    {"code", absl::StatusCodeToString(status.code())}});
  return absl::IsInvalidArgument(status) ? kExitUsage : kExitFailed;
}

// Everything between a good configuration and the exit code.
int Serve(
    std::string_view component, Settings settings,
    const std::function<absl::StatusOr<std::unique_ptr<Application>>(RunnerContext&)>& build) {
  // A file left by an earlier run names ports that are not ours.
  if (!settings.address_file.empty()) unlink(settings.address_file.c_str());

  // Debian's abseil is built with the search for deadlocks, which costs each lock a global one.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  Signals signals(settings.drain_timeout + kExitGrace);
  gpr_set_log_function(&LogForGrpc);

  absl::StatusOr<std::unique_ptr<MetricsListener>> metrics =
      MetricsListener::Start(settings.metrics_listen, component, INTERMEZZO_VERSION);
  if (!metrics.ok()) return Failed("cannot start", metrics.status());
  settings.metrics_listen = (*metrics)->address();

  // Destroyed in reverse: the server before the services that it calls.
  HealthService health;
  RunnerContext context{(*metrics)->registry()};
  absl::StatusOr<std::unique_ptr<Application>> application = build(context);
  if (!application.ok()) return Failed("cannot start", application.status());
  absl::StatusOr<std::unique_ptr<grpc::Server>> server =
      StartServer(settings.listen, health, **application);
  if (!server.ok()) return Failed("cannot start", server.status());

  absl::Status started = (*application)->Start(settings.listen.str());
  if (started.ok() && !settings.address_file.empty()) started = WriteAddressFile(settings);
  int exit_code = kExitDrained;
  if (started.ok()) {
    health.SetServing(true);
    log::Info("serving", {{"grpc", settings.listen.str()},
                          {"metrics", settings.metrics_listen.str()},
                          {"version", INTERMEZZO_VERSION}});
    const int signal = signals.Wait();
    log::Info("draining", {{"signal", signal == SIGINT ? "SIGINT" : "SIGTERM"}});
  } else {
    exit_code = Failed("cannot start", started);
  }

  health.SetServing(false);
  (*application)->Drain(settings.drain_timeout);
  health.Stop();
  (*server)->Shutdown(absl::ToChronoTime(absl::Now() + kShutdownGrace));
  (*server)->Wait();
  if (!settings.address_file.empty()) unlink(settings.address_file.c_str());
  log::Info("stopped");
  return exit_code;
}

}  // namespace

int Run(int argc, char** argv, std::string_view component, google::protobuf::Message& config,
        const std::function<Runner&()>& runner_config,
        const std::function<absl::StatusOr<std::unique_ptr<Application>>(RunnerContext&)>& build,
        const std::function<absl::Status()>& validate) {
  std::string config_file;
  bool check_config = false;
  CLI::App flags(absl::StrCat("InterMezzo's ", View(component), "."), std::string(component));
  flags.add_option("--config", config_file, "YAML file; its fields are those of the proto message")
      ->required();
  flags.add_flag("--check-config", check_config, "Read the configuration, say what is wrong, exit");
  flags.set_version_flag("--version", absl::StrCat(View(component), " ", INTERMEZZO_VERSION));
  try {
    flags.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return flags.exit(error) == 0 ? kExitDrained : kExitUsage;
  }

  Settings settings;
  absl::Status status = log::Init(component, "info");
  if (status.ok()) status = LoadConfig(config_file, config);
  if (status.ok()) status = ReadSettings(runner_config(), component, &settings);
  if (status.ok() && validate) status = validate();
  if (!status.ok()) {
    Failed("bad configuration", status);
    return kExitUsage;
  }
  if (check_config) {
    printf("%s: good\n", config_file.c_str());
    return kExitDrained;
  }
  return Serve(component, std::move(settings), build);
}

}  // namespace intermezzo
