// A tiny process on the runner, started by runner_test: says in files what happens to it.
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "intermezzo/config/v1/config.pb.h"
#include "services/common/config/config.h"
#include "services/common/runner/runner.h"

namespace {

using intermezzo::config::v1::JournalServiceConfig;

// Fails where the test asks for it by the name of its data_dir.
class TinyApplication : public intermezzo::Application {
 public:
  explicit TinyApplication(std::string data_dir) : data_dir_(std::move(data_dir)) {}
  ~TinyApplication() override { Event("destroyed"); }

  std::vector<grpc::Service*> Services() override { return {}; }

  absl::Status Start(const std::string& grpc_address) override {
    Event(absl::StrCat("start ", grpc_address));
    if (data_dir_.ends_with("/start-fails")) return absl::UnavailableError("no peer");
    return absl::OkStatus();
  }

  void Drain(absl::Duration timeout) override {
    Event(absl::StrCat("drain ", absl::FormatDuration(timeout)));
    // The test looks at the health meanwhile, then lets the drain go on.
    if (data_dir_.ends_with("/drain-waits")) {
      std::ifstream fifo(data_dir_ + "/go-on");
      fifo.get();
    }
    Event("drained");
  }

 private:
  void Event(const std::string& what) {
    std::ofstream(data_dir_ + "/events", std::ios::app) << what << std::endl;
  }
  const std::string data_dir_;
};

}  // namespace

int main(int argc, char** argv) {
  JournalServiceConfig config;
  return intermezzo::Run(
      argc, argv, "tiny", config, [&]() -> auto& { return *config.mutable_runner(); },
      [&](intermezzo::RunnerContext&) -> absl::StatusOr<std::unique_ptr<intermezzo::Application>> {
        if (config.data_dir().ends_with("/build-fails")) return absl::DataLossError("bad disk");
        return std::make_unique<TinyApplication>(config.data_dir());
      },
      [&] { return intermezzo::RequireField(config.data_dir(), "data_dir"); });
}
