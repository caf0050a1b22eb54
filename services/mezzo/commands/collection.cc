// mezzo collection create|list|show|delete
#include <CLI/CLI.hpp>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "services/common/config/config.h"
#include "services/mezzo/command.h"
#include "services/mezzo/json.h"
#include "services/mezzo/table.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

struct Options {
  std::string name;
  std::string offline_writes = "allow";
  absl::Duration retention = absl::Hours(24);
  bool force = false;
};

const char* OfflineWritesText(registry::v1::OfflineWrites policy) {
  return policy == registry::v1::OFFLINE_WRITES_DENY ? "deny" : "allow";
}

void PrintCollections(Context& context,
                      const google::protobuf::RepeatedPtrField<registry::v1::Collection>& all,
                      std::map<std::string, int> replica_count) {
  Table table({{"NAME"},
               {"REPLICAS", Table::Align::kRight},
               {"OFFLINE WRITES"},
               {"RETENTION", Table::Align::kRight},
               {"UID", Table::Align::kRight}});
  for (const auto& collection : all) {
    table.AddRow(
        {collection.name(), absl::StrCat(replica_count[collection.name()]),
         OfflineWritesText(collection.offline_writes()),
         collection.has_retention() ? HumanDuration(FromProto(collection.retention())) : "default",
         absl::StrCat(collection.uid())});
  }
  table.Print(context.out);
}

absl::StatusOr<ExitCode> Create(Context& context, const Options& options) {
  registry::v1::Collection wanted;
  wanted.set_name(options.name);
  wanted.set_offline_writes(options.offline_writes == "deny" ? registry::v1::OFFLINE_WRITES_DENY
                                                             : registry::v1::OFFLINE_WRITES_ALLOW);
  *wanted.mutable_retention() = ToProto(options.retention);
  const auto created = context.client.CreateCollection(wanted);
  if (!created.ok()) return created.status();
  if (context.json) {
    PrintJson(context.out, *created);
  } else {
    context.out << "collection " << created->name() << " created (uid " << created->uid()
                << "); next: mezzo replica add " << created->name()
                << " NODE --lower DIR --mount DIR\n";
  }
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> List(Context& context) {
  const auto collections = context.client.ListCollections();
  if (!collections.ok()) return collections.status();
  if (context.json) {
    PrintJson(context.out, *collections);
    return ExitCode::kOk;
  }
  const auto replicas = context.client.ListReplicas("");
  if (!replicas.ok()) return replicas.status();
  std::map<std::string, int> replica_count;
  for (const auto& replica : replicas->replicas()) ++replica_count[replica.collection()];
  PrintCollections(context, collections->collections(), replica_count);
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Show(Context& context, const Options& options) {
  const auto collection = context.client.GetCollection(options.name);
  if (!collection.ok()) return collection.status();
  if (context.json) {
    PrintJson(context.out, *collection);
    return ExitCode::kOk;
  }
  const auto replicas = context.client.ListReplicas(options.name);
  if (!replicas.ok()) return replicas.status();
  google::protobuf::RepeatedPtrField<registry::v1::Collection> one;
  *one.Add() = *collection;
  PrintCollections(context, one, {{options.name, replicas->replicas_size()}});
  if (replicas->replicas().empty()) return ExitCode::kOk;
  Table table({{"NODE"}, {"LOWER DIRECTORY"}, {"MOUNT"}});
  for (const auto& replica : replicas->replicas()) {
    table.AddRow({replica.node(), replica.lower_dir(), replica.mount_dir()});
  }
  context.out << '\n';
  table.Print(context.out);
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Delete(Context& context, const Options& options) {
  if (absl::Status status = context.client.DeleteCollection(options.name, options.force);
      !status.ok()) {
    return status;
  }
  if (context.json) {
    PrintJson(context.out, registry::v1::DeleteCollectionResponse());
  } else {
    context.out << "collection " << options.name
                << " deleted with its journal; the replicas' files stay where they are\n";
  }
  return ExitCode::kOk;
}

}  // namespace

void AddCollection(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* group = AddGroup(app, "collection", "Folder collections");

  CLI::App* create = group->add_subcommand("create", "Create a collection and its journal");
  AddCollectionArgument(*create, options->name);
  create
      ->add_option("--offline-writes", options->offline_writes,
                   "What writers may do on a node that cannot reach the server")
      ->check(CLI::IsMember({"allow", "deny"}))
      ->capture_default_str();
  AddTimeOption(*create, "--retention", options->retention,
                "How long the journal keeps records that every replica has");
  create->callback([&action, options] {
    action = [options](Context& context) { return Create(context, *options); };
  });

  group->add_subcommand("list", "List the collections")->callback([&action] { action = List; });

  CLI::App* show = group->add_subcommand("show", "Show one collection and its replicas");
  AddCollectionArgument(*show, options->name);
  show->callback([&action, options] {
    action = [options](Context& context) { return Show(context, *options); };
  });

  CLI::App* remove = group->add_subcommand(
      "delete", "Delete a collection and its journal; files stay where they are");
  AddCollectionArgument(*remove, options->name);
  remove->add_flag("--force", options->force, "Also where it has replicas");
  remove->callback([&action, options] {
    action = [options](Context& context) { return Delete(context, *options); };
  });
}

}  // namespace intermezzo::mezzo
