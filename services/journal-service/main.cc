// journal-service: the ordered journal of each collection, in RocksDB, over gRPC.
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "intermezzo/config/v1/config.pb.h"
#include "services/common/config/config.h"
#include "services/common/runner/runner.h"
#include "services/journal-service/grpc/journal_service.h"
#include "services/journal-service/metrics.h"
#include "services/journal-service/rocksdb/rocksdb_journal_store.h"

namespace intermezzo::journal {
namespace {

constexpr uint64_t kDefaultCacheBytes = 64 << 20;

class JournalApplication final : public Application {
 public:
  static absl::StatusOr<std::unique_ptr<Application>> Build(
      const config::v1::JournalServiceConfig& config, RunnerContext& context) {
    std::error_code error;
    std::filesystem::create_directories(config.data_dir(), error);
    if (error) {
      return absl::InvalidArgumentError(
          absl::StrCat("data_dir: cannot make ", config.data_dir(), ": ", error.message()));
    }
    auto metrics = std::make_unique<JournalMetrics>(context.metrics);
    RocksDbJournalStore::Options options;
    options.database.dir = config.data_dir();
    options.database.cache_bytes =
        config.cache_bytes() != 0 ? config.cache_bytes() : kDefaultCacheBytes;
    options.clock = [] { return absl::Now(); };
    options.observer = metrics.get();
    auto store = RocksDbJournalStore::Open(std::move(options));
    if (!store.ok()) return store.status();
    return std::unique_ptr<Application>(
        new JournalApplication(std::move(metrics), *std::move(store)));
  }

  std::vector<grpc::Service*> Services() override { return {&service_}; }
  void Drain(absl::Duration timeout) override { service_.Drain(timeout); }

 private:
  JournalApplication(std::unique_ptr<JournalMetrics> metrics,
                     std::unique_ptr<RocksDbJournalStore> store)
      : metrics_(std::move(metrics)),
        store_(std::move(store)),
        service_(*store_, {.clock = [] { return absl::Now(); }, .observer = metrics_.get()}) {}

  const std::unique_ptr<JournalMetrics> metrics_;
  const std::unique_ptr<RocksDbJournalStore> store_;
  JournalGrpcService service_;
};

}  // namespace
}  // namespace intermezzo::journal

int main(int argc, char** argv) {
  intermezzo::config::v1::JournalServiceConfig config;
  return intermezzo::Run(
      argc, argv, "journal-service", config,
      [&]() -> intermezzo::config::v1::Runner& { return *config.mutable_runner(); },
      [&](intermezzo::RunnerContext& context) {
        return intermezzo::journal::JournalApplication::Build(config, context);
      },
      [&] { return intermezzo::RequireField(config.data_dir(), "data_dir"); });
}
