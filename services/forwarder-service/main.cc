// forwarder-service: see services/README.md.
#include <memory>

#include "intermezzo/config/v1/config.pb.h"
#include "services/common/config/config.h"
#include "services/common/rpc/channel.h"
#include "services/common/runner/runner.h"
#include "services/forwarder-service/grpc/forwarder_service.h"

namespace intermezzo::forwarder {
namespace {

class Process final : public Application {
 public:
  Process(const config::v1::ForwarderServiceConfig& config, RunnerContext& context)
      : service_(MakeOptions(config),
                 journal::v1::JournalService::NewStub(MakeChannel(config.journal_address())),
                 registry::v1::RegistryService::NewStub(MakeChannel(config.token_address())),
                 *context.metrics) {}

  std::vector<grpc::Service*> Services() override { return {&service_}; }
  void Drain(absl::Duration timeout) override { service_.Drain(timeout); }

 private:
  static Options MakeOptions(const config::v1::ForwarderServiceConfig& config) {
    Options options;
    if (config.window_bytes() > 0) options.window.bytes = config.window_bytes();
    if (config.window_records() > 0) options.window.records = config.window_records();
    return options;
  }

  ForwarderServiceImpl service_;
};

}  // namespace
}  // namespace intermezzo::forwarder

int main(int argc, char** argv) {
  intermezzo::config::v1::ForwarderServiceConfig config;
  return intermezzo::Run(
      argc, argv, "forwarder-service", config,
      [&]() -> intermezzo::config::v1::Runner& { return *config.mutable_runner(); },
      [&](intermezzo::RunnerContext& context)
          -> absl::StatusOr<std::unique_ptr<intermezzo::Application>> {
        absl::Status status = intermezzo::RequireField(config.journal_address(), "journal_address");
        status.Update(intermezzo::RequireField(config.token_address(), "token_address"));
        if (!status.ok()) return status;
        return std::make_unique<intermezzo::forwarder::Process>(config, context);
      });
}
