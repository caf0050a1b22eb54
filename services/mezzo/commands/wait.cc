// mezzo wait COLLECTION
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "services/mezzo/command.h"
#include "services/mezzo/poll.h"
#include "services/mezzo/progress.h"
#include "services/mezzo/settled.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

struct Options {
  std::string collection;
  uint64_t seq = 0;
  bool settled = false;
  absl::Duration timeout = absl::Minutes(1);
};

absl::StatusOr<ExitCode> Wait(Context& context, const Options& options) {
  const absl::Time begin = absl::Now();
  const absl::Time deadline = begin + options.timeout;
  // No collection, or nobody to wait for. Other errors may pass: the waits below ask again.
  if (auto nodes = NodesOf(context.client, options.collection); absl::IsNotFound(nodes.status())) {
    return nodes.status();
  }
  Progress progress(context.err, context.terminal,
                    absl::StrCat("waiting for ", options.collection));
  std::vector<std::string> left_out;
  absl::Status sent;
  if (options.settled) {
    sent = WaitUntilNothingPending(context.client, options.collection, deadline, progress);
  } else if (options.seq == 0) {
    sent = WaitUntilWritesAreSent(context.client, options.collection, deadline, progress, left_out);
  }
  if (!sent.ok()) return sent;
  const auto seq =
      WaitUntilReplicated(context.client, options.collection, options.seq, deadline, progress);
  if (!seq.ok()) return seq.status();
  progress.Clear();
  if (!left_out.empty()) {
    context.err << "mezzo: not connected: " << absl::StrJoin(left_out, ", ")
                << "; updates that only they have are not counted\n";
  }
  if (context.json) {
    nlohmann::ordered_json json;
    json["seq"] = absl::StrCat(*seq);
    context.out << json.dump(2) << '\n';
  } else {
    context.out << "every replica of " << options.collection << " has seq " << *seq << " (after "
                << HumanDuration(absl::Now() - begin) << ")\n";
  }
  return ExitCode::kOk;
}

}  // namespace

void AddWait(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* wait =
      app.add_subcommand("wait", "Wait until every replica has what was written up to now");
  AddCollectionArgument(*wait, options->collection);
  wait->add_option("--seq", options->seq, "Wait for this seq instead of all that was written");
  wait->add_flag(
      "--settled", options->settled,
      "First wait until every node is connected and has nothing that the journal does not "
      "have");
  AddTimeOption(*wait, "--timeout", options->timeout, "How long to wait");
  wait->callback([&action, options] {
    action = [options](Context& context) { return Wait(context, *options); };
  });
}

}  // namespace intermezzo::mezzo
