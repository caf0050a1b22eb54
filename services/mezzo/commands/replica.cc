// mezzo replica add|remove|list
#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/mezzo/command.h"
#include "services/mezzo/json.h"
#include "services/mezzo/poll.h"
#include "services/mezzo/progress.h"
#include "services/mezzo/table.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

struct Options {
  std::string collection;
  std::string node;
  std::string lower_dir;
  std::string mount_dir;
  bool wait = false;
  absl::Duration timeout = absl::Minutes(10);
};

// The node's own view of the replica; NOT_FOUND while it does not know of it.
absl::StatusOr<node::v1::ReplicaStatus> StatusOnNode(Client& client, const std::string& collection,
                                                     const std::string& node_name) {
  const auto nodes = client.ListNodes();
  if (!nodes.ok()) return nodes.status();
  for (const auto& node : nodes->nodes()) {
    if (node.name() != node_name) continue;
    const auto status = client.GetNodeStatus(node);
    if (!status.ok()) return status.status();
    for (const auto& replica : status->replicas()) {
      if (replica.collection() == collection) return replica;
    }
  }
  return absl::NotFoundError(
      absl::StrCat("node '", node_name, "' does not have the replica of '", collection, "' yet"));
}

// Until the node says that its replica is connected, i.e. imported, adopted or copied.
absl::Status WaitUntilJoined(Context& context, const Options& options) {
  Progress progress(context.err, context.terminal,
                    absl::StrCat(options.collection, " on ", options.node));
  absl::Status last = absl::DeadlineExceededError("the node was not asked in time");
  const bool joined = PollUntil(absl::Now() + options.timeout, [&] {
    const auto replica = StatusOnNode(context.client, options.collection, options.node);
    if (!replica.ok()) {
      last = replica.status();
      return false;
    }
    switch (replica->connection()) {
      case node::v1::CONNECTION_CONNECTED:
        progress.Update(1, 1, "connected");
        last = absl::OkStatus();
        return true;
      case node::v1::CONNECTION_FAILED:
        last = absl::FailedPreconditionError(absl::StrCat(
            "the replica of '", options.collection, "' on ", options.node, " failed: ",
            replica->error(), "; its log has more, 'mezzo replica remove' undoes the addition"));
        return true;
      default:
        progress.Update(replica->joined_objects(), replica->total_objects(),
                        absl::StrCat(HumanCount(replica->joined_objects()), " of ",
                                     HumanCount(replica->total_objects()), " objects"));
        return false;
    }
  });
  if (joined) return last;
  return absl::DeadlineExceededError(
      absl::StrCat("the replica of '", options.collection, "' on ", options.node,
                   " was registered but did not connect within ", HumanDuration(options.timeout),
                   last.ok() ? "" : "; last: ", last.message()));
}

absl::StatusOr<ExitCode> Add(Context& context, const Options& options) {
  registry::v1::Replica wanted;
  wanted.set_collection(options.collection);
  wanted.set_node(options.node);
  wanted.set_lower_dir(options.lower_dir);
  wanted.set_mount_dir(options.mount_dir);
  const auto added = context.client.AddReplica(wanted);
  if (!added.ok()) return added.status();
  if (options.wait) {
    if (absl::Status status = WaitUntilJoined(context, options); !status.ok()) return status;
  }
  if (context.json) {
    PrintJson(context.out, *added);
  } else {
    context.out << "replica of " << added->collection() << " on " << added->node()
                << (options.wait ? " connected: " : " registered: ") << added->lower_dir()
                << " mounted at " << added->mount_dir() << '\n';
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Remove(Context& context, const Options& options) {
  if (absl::Status status = context.client.RemoveReplica(options.collection, options.node);
      !status.ok()) {
    return status;
  }
  if (context.json) {
    PrintJson(context.out, registry::v1::RemoveReplicaResponse());
  } else {
    context.out << "replica of " << options.collection << " on " << options.node
                << " removed; the node unmounts it and keeps its files\n";
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> List(Context& context, const Options& options) {
  const auto replicas = context.client.ListReplicas(options.collection);
  if (!replicas.ok()) return replicas.status();
  if (context.json) {
    PrintJson(context.out, *replicas);
    return ExitCode::kOk;
  }
  Table table({{"COLLECTION"}, {"NODE"}, {"LOWER DIRECTORY"}, {"MOUNT"}});
  for (const auto& replica : replicas->replicas()) {
    table.AddRow({replica.collection(), replica.node(), replica.lower_dir(), replica.mount_dir()});
  }
  table.Print(context.out);
  return ExitCode::kOk;
}

}  // namespace

void AddReplica(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* group = AddGroup(app, "replica", "Replicas: a node's copy of a collection");

  CLI::App* add = group->add_subcommand(
      "add", "Register a replica; the node imports, adopts or copies, and mounts it");
  AddCollectionArgument(*add, options->collection);
  AddNodeArgument(*add, options->node);
  add->add_option("--lower", options->lower_dir,
                  "Directory on the node's local disk, absolute; content that is already there is "
                  "imported (first replica) or adopted")
      ->type_name("DIR")
      ->required();
  add->add_option("--mount", options->mount_dir, "Where the node mounts it, absolute")
      ->type_name("DIR")
      ->required();
  add->add_flag("--wait", options->wait, "Wait, with a progress bar, until it is connected");
  AddTimeOption(*add, "--timeout", options->timeout, "How long --wait may take");
  add->callback([&action, options] {
    action = [options](Context& context) { return Add(context, *options); };
  });

  CLI::App* remove =
      group->add_subcommand("remove", "Unregister a replica; the node keeps its files");
  AddCollectionArgument(*remove, options->collection);
  AddNodeArgument(*remove, options->node);
  remove->callback([&action, options] {
    action = [options](Context& context) { return Remove(context, *options); };
  });

  CLI::App* list = group->add_subcommand("list", "List the replicas");
  AddCollectionArgument(*list, options->collection)->required(false);
  list->callback([&action, options] {
    action = [options](Context& context) { return List(context, *options); };
  });
}

}  // namespace intermezzo::mezzo
