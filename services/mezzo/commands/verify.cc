// mezzo verify COLLECTION
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "services/mezzo/command.h"
#include "services/mezzo/digest_compare.h"
#include "services/mezzo/poll.h"
#include "services/mezzo/progress.h"
#include "services/mezzo/settled.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

struct Options {
  std::string collection;
  bool all = false;
  absl::Duration timeout = absl::Minutes(5);
};

// How long one try waits for all replicas to be at one seq with nothing pending.
constexpr absl::Duration kSettleWithin = absl::Seconds(20);

constexpr size_t kFirstDifferences = 50;
constexpr size_t kMostDifferences = 1'000'000;  // with --all: they are kept in memory

std::string PathText(const std::string& path) { return path.empty() ? "." : EscapeBytes(path); }

// "node-1, node-2: 12; node-3: 13": nodes with the same value together.
std::string ValuesText(const Difference& difference) {
  std::vector<std::pair<std::string, std::vector<std::string>>> groups;
  for (const auto& [node, value] : difference.values) {
    const auto same =
        std::find_if(groups.begin(), groups.end(),
                     [&value = value](const auto& group) { return group.first == value; });
    if (same != groups.end()) {
      same->second.push_back(node);
    } else {
      groups.push_back({value, {node}});
    }
  }
  return absl::StrJoin(groups, "; ", [](std::string* out, const auto& group) {
    absl::StrAppend(out, absl::StrJoin(group.second, ", "), ": ", group.first);
  });
}

void PrintJsonResult(Context& context, const std::vector<std::string>& nodes,
                     const Options& options, const Comparison& result) {
  nlohmann::ordered_json json;
  json["collection"] = options.collection;
  json["seq"] = absl::StrCat(result.seq);
  json["nodes"] = nodes;
  json["objects"] = absl::StrCat(result.objects);
  json["bytes"] = absl::StrCat(result.bytes);
  json["inSync"] = result.difference_count == 0;
  json["differenceCount"] = absl::StrCat(result.difference_count);
  json["differences"] = nlohmann::ordered_json::array();
  for (const Difference& difference : result.differences) {
    json["differences"].push_back({{"path", PathText(difference.path)},
                                   {"field", difference.field},
                                   {"values", difference.values}});
  }
  context.out << json.dump(2) << '\n';
}

ExitCode Report(Context& context, const std::vector<std::string>& nodes, const Options& options,
                const Comparison& result, absl::Duration took) {
  const ExitCode code = result.difference_count == 0 ? ExitCode::kOk : ExitCode::kDifferences;
  if (context.json) {
    PrintJsonResult(context, nodes, options, result);
    return code;
  }
  for (const Difference& difference : result.differences) {
    context.out << PathText(difference.path) << ": " << difference.field
                << " differs: " << ValuesText(difference) << '\n';
  }
  if (result.difference_count > result.differences.size()) {
    context.out << "... and " << HumanCount(result.difference_count - result.differences.size())
                << " more" << (options.all ? "" : "; --all shows them") << '\n';
  }
  context.out << options.collection << " at seq " << result.seq << " on "
              << absl::StrJoin(nodes, ", ") << ": " << HumanCount(result.objects) << " paths, "
              << HumanBytes(result.bytes) << ": ";
  if (code == ExitCode::kOk) {
    context.out << "the same";
  } else {
    context.out << HumanCount(result.difference_count) << " differences";
  }
  context.out << " (" << HumanDuration(took) << ")\n";
  if (nodes.size() == 1) context.out << "there is only one replica: nothing to compare\n";
  return code;
}

// One comparison with what went before it. `comparison` is set where one was made, also where it
// does not count because a replica moved.
absl::Status Attempt(Context& context, const Options& options, absl::Time deadline,
                     Progress& progress, uint64_t expected_objects, std::vector<std::string>& nodes,
                     std::optional<Comparison>& comparison) {
  Client& client = context.client;
  // With writers about there may never be a moment at which nothing waits: then it is this try that
  // fails, and says why.
  const absl::Time settled_by = std::min(deadline, absl::Now() + kSettleWithin);
  if (absl::Status status =
          WaitUntilNothingPending(client, options.collection, settled_by, progress);
      !status.ok()) {
    return status;
  }
  // The seq at which they are compared: it must be the head still when all have it.
  const auto seq = WaitUntilReplicated(client, options.collection, 0, settled_by, progress);
  if (!seq.ok()) return seq.status();
  const auto journal = client.GetJournal(options.collection);
  if (!journal.ok()) return journal.status();
  if (journal->head_seq() != *seq) {
    return absl::DeadlineExceededError(absl::StrCat("the journal moved from seq ", *seq, " to ",
                                                    journal->head_seq(),
                                                    " before all replicas could be compared"));
  }
  const auto with_replica = NodesOf(client, options.collection);
  if (!with_replica.ok()) return with_replica.status();
  nodes.clear();
  std::vector<std::unique_ptr<DigestStream>> streams;
  std::vector<ReplicaDigests> replicas;
  for (const registry::v1::Node& node : *with_replica) {
    nodes.push_back(node.name());
    streams.push_back(client.ListDigests(node, options.collection, deadline - absl::Now()));
    replicas.push_back({node.name(), streams.back().get()});
  }
  auto result = CompareReplicas(
      replicas, options.all ? kMostDifferences : kFirstDifferences,
      [&](uint64_t objects, uint64_t bytes) {
        progress.Update(objects, expected_objects,
                        absl::StrCat(HumanCount(objects), " paths, ", HumanBytes(bytes)));
      });
  if (!result.ok()) return result.status();
  comparison = *std::move(result);
  return absl::OkStatus();
}

absl::StatusOr<ExitCode> Verify(Context& context, const Options& options) {
  const absl::Time begin = absl::Now();
  const absl::Time deadline = begin + options.timeout;
  // An unreachable server or an unknown collection is said at once, not after the timeout.
  if (auto nodes = NodesOf(context.client, options.collection); !nodes.ok()) return nodes.status();

  Progress progress(context.err, context.terminal, absl::StrCat("verify ", options.collection));
  std::vector<std::string> nodes;
  std::optional<Comparison> comparison;
  absl::Status last;
  uint64_t expected_objects = 0;
  int tries = 0;
  std::string why;  // the last try failed
  const bool ended = PollUntil(deadline, [&] {
    ++tries;
    std::optional<Comparison> now;
    last = Attempt(context, options, deadline, progress, expected_objects, nodes, now);
    if (last.ok()) {
      comparison = std::move(now);
      expected_objects = std::max(expected_objects, comparison->objects);
      if (comparison->unsteady.empty()) return true;
      why = comparison->unsteady;
    } else {
      // What may pass; a call that took too long among it.
      if (!absl::IsUnavailable(last) && !absl::IsDeadlineExceeded(last)) return true;
      // A try that had no time left says nothing new.
      if (why.empty() || absl::Now() < deadline) why = std::string(last.message());
    }
    progress.Update(0, 0, absl::StrCat("try ", tries, ": ", why, "; again"));
    return false;
  });
  progress.Clear();
  if (ended && last.ok()) {
    return Report(context, nodes, options, *comparison, absl::Now() - begin);
  }
  if (!last.ok() && !absl::IsDeadlineExceeded(last)) return last;
  return absl::DeadlineExceededError(absl::StrCat(
      "the replicas of '", options.collection, "' did not stand still for one comparison: ", tries,
      tries == 1 ? " try" : " tries", " within ", HumanDuration(options.timeout),
      ", the last: ", why, "; verify when there are fewer writes, or with a longer --timeout"));
}

}  // namespace

void AddVerify(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verify =
      app.add_subcommand("verify", "Compare the replicas of a collection by content and metadata");
  AddCollectionArgument(*verify, options->collection);
  verify->add_flag("--all", options->all, "Show all differences, not the first 50");
  AddTimeOption(*verify, "--timeout", options->timeout,
                "How long to wait for the replicas to be at one seq and to compare them");
  verify->callback([&action, options] {
    action = [options](Context& context) { return Verify(context, *options); };
  });
}

}  // namespace intermezzo::mezzo
