// The sidecar: one per node, keeps the node's replicas.
#include <memory>
#include <utility>

#include "services/common/runner/runner.h"
#include "services/sidecar/fuse/fuse_presto.h"
#include "services/sidecar/sidecar.h"

int main(int argc, char** argv) {
  using intermezzo::sidecar::FuseOptions;
  using intermezzo::sidecar::FusePresto;
  using intermezzo::sidecar::Presto;
  using intermezzo::sidecar::Replica;
  using intermezzo::sidecar::Sidecar;

  intermezzo::config::v1::SidecarConfig config;
  return intermezzo::Run(
      argc, argv, "sidecar", config,
      [&]() -> intermezzo::config::v1::Runner& { return *config.mutable_runner(); },
      [&](intermezzo::RunnerContext& context)
          -> absl::StatusOr<std::unique_ptr<intermezzo::Application>> {
        auto presto = [&config, metrics = context.metrics](
                          Replica& replica,
                          const std::string& mount_dir) -> absl::StatusOr<std::unique_ptr<Presto>> {
          FuseOptions options;
          options.mount_point = mount_dir;
          if (config.fuse_threads() != 0) options.threads = static_cast<int>(config.fuse_threads());
          options.answer_opens = config.answer_opens();
          if (config.parked_bytes() != 0) options.parked_bytes = config.parked_bytes();
          if (config.parked_file_bytes() != 0) options.spill_bytes = config.parked_file_bytes();
          options.spill_dir = config.data_dir();
          options.metrics = metrics;
          auto made = FusePresto::Create(std::move(options), &replica);
          if (!made.ok()) return made.status();
          return std::unique_ptr<Presto>(*std::move(made));
        };
        auto sidecar = Sidecar::Build(config, context, presto);
        if (!sidecar.ok()) return sidecar.status();
        return std::unique_ptr<intermezzo::Application>(*std::move(sidecar));
      },
      [&] { return Sidecar::Validate(config); });
}
