// mezzo status [COLLECTION]
#include <CLI/CLI.hpp>
#include <future>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "services/common/config/config.h"
#include "services/mezzo/command.h"
#include "services/mezzo/json.h"
#include "services/mezzo/table.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

struct Options {
  std::string collection;
  bool check = false;
};

// Everything that the services say, as far as they could be asked.
struct Picture {
  std::vector<registry::v1::Node> nodes;
  std::vector<registry::v1::Collection> collections;
  std::vector<registry::v1::Replica> replicas;
  std::map<std::string, token::v1::Token> tokens;                               // by collection
  std::map<std::string, journal::v1::Journal> journals;                         // by collection
  std::map<std::string, std::vector<forwarder::v1::ReplicaProgress>> progress;  // by collection
  std::map<std::string, node::v1::GetNodeStatusResponse> node_status;           // by node
  std::vector<absl::Status> problems;

  const forwarder::v1::ReplicaProgress* Progress(const registry::v1::Replica& replica) const {
    const auto found = progress.find(replica.collection());
    if (found == progress.end()) return nullptr;
    for (const auto& one : found->second) {
      if (one.node() == replica.node()) return &one;
    }
    return nullptr;
  }
  const node::v1::ReplicaStatus* OnNode(const registry::v1::Replica& replica) const {
    const auto found = node_status.find(replica.node());
    if (found == node_status.end()) return nullptr;
    for (const auto& one : found->second.replicas()) {
      if (one.collection() == replica.collection()) return &one;
    }
    return nullptr;
  }
};

// Only the registry must answer; what others do not say is left out and named in `problems`.
absl::StatusOr<Picture> Look(Client& client, const std::string& only) {
  Picture picture;
  const auto nodes = client.ListNodes();
  if (!nodes.ok()) return nodes.status();
  picture.nodes.assign(nodes->nodes().begin(), nodes->nodes().end());
  if (only.empty()) {
    const auto collections = client.ListCollections();
    if (!collections.ok()) return collections.status();
    picture.collections.assign(collections->collections().begin(),
                               collections->collections().end());
  } else {
    const auto collection = client.GetCollection(only);
    if (!collection.ok()) return collection.status();
    picture.collections.push_back(*collection);
  }
  const auto replicas = client.ListReplicas(only);
  if (!replicas.ok()) return replicas.status();
  picture.replicas.assign(replicas->replicas().begin(), replicas->replicas().end());

  bool journal_answers = true;
  bool forwarder_answers = true;
  const auto keep = [&picture](const absl::Status& status) {
    if (!status.ok()) picture.problems.push_back(status);
    return !absl::IsUnavailable(status);
  };
  for (const auto& collection : picture.collections) {
    const std::string& name = collection.name();
    const auto token = client.GetToken(name);
    if (keep(token.status()) && token.ok()) picture.tokens[name] = *token;
    if (journal_answers) {
      const auto journal = client.GetJournal(name);
      journal_answers = keep(journal.status());
      if (journal.ok()) picture.journals[name] = *journal;
    }
    if (forwarder_answers) {
      const auto progress = client.ListReplicaProgress(name);
      forwarder_answers = keep(progress.status());
      if (progress.ok()) {
        picture.progress[name].assign(progress->replicas().begin(), progress->replicas().end());
      }
    }
  }
  // All at once: those that do not answer cost one time limit together. A node that the registry
  // has lost is asked, too: it may be cut off from the server only, and have records that nobody
  // has.
  std::vector<std::pair<const registry::v1::Node*,
                        std::future<absl::StatusOr<node::v1::GetNodeStatusResponse>>>>
      answers;
  for (const auto& node : picture.nodes) {
    if (node.address().empty()) continue;
    answers.emplace_back(
        &node, std::async(std::launch::async, [&] { return client.GetNodeStatus(node); }));
  }
  for (auto& [node, answer] : answers) {
    const auto status = answer.get();
    // At that address there may be another one now.
    if (status.ok() && (status->node().empty() || status->node() == node->name())) {
      picture.node_status[node->name()] = *status;
    } else if (node->connected()) {
      keep(status.status());
    }
  }
  return picture;
}

// REPLICA_STATE_CATCHING_UP as "catching up".
std::string EnumText(absl::string_view name, absl::string_view prefix) {
  std::string text(absl::StripPrefix(name, prefix));
  for (char& c : text) c = c == '_' ? ' ' : static_cast<char>(std::tolower(c));
  return text;
}

std::string StateText(const forwarder::v1::ReplicaProgress* progress,
                      const node::v1::ReplicaStatus* on_node) {
  if (on_node != nullptr && on_node->connection() != node::v1::CONNECTION_CONNECTED &&
      on_node->connection() != node::v1::CONNECTION_UNSPECIFIED) {
    std::string text = EnumText(node::v1::Connection_Name(on_node->connection()), "CONNECTION_");
    if (on_node->connection() == node::v1::CONNECTION_JOINING && on_node->total_objects() > 0) {
      absl::StrAppend(&text, " ", on_node->joined_objects() * 100 / on_node->total_objects(), "%");
    }
    return text;
  }
  if (progress == nullptr) return "unknown";
  return EnumText(forwarder::v1::ReplicaState_Name(progress->state()), "REPLICA_STATE_");
}

void PrintTables(Context& context, const Picture& picture) {
  Table nodes({{"NODE"}, {"CONNECTED"}, {"ORDINAL", Table::Align::kRight}, {"ADDRESS"}});
  for (const auto& node : picture.nodes) {
    nodes.AddRow({node.name(), node.connected() ? "yes" : "no", absl::StrCat(node.ordinal()),
                  node.address()});
  }
  nodes.Print(context.out);

  Table collections({{"COLLECTION"},
                     {"HEAD SEQ", Table::Align::kRight},
                     {"JOURNALED", Table::Align::kRight},
                     {"TOKEN HOLDER"},
                     {"EPOCH", Table::Align::kRight},
                     {"LEASE", Table::Align::kRight},
                     {"WAITING"}});
  for (const auto& collection : picture.collections) {
    const auto token = picture.tokens.find(collection.name());
    const auto journal = picture.journals.find(collection.name());
    const bool has_token = token != picture.tokens.end();
    const bool has_journal = journal != picture.journals.end();
    const bool held = has_token && !token->second.holder().empty();
    collections.AddRow(
        {collection.name(), has_journal ? absl::StrCat(journal->second.head_seq()) : "?",
         has_journal ? HumanBytes(journal->second.head_bytes()) : "?",
         !has_token ? "?" : (held ? token->second.holder() : "-"),
         has_token ? absl::StrCat(token->second.epoch()) : "?",
         held ? HumanDuration(FromProto(token->second.remaining())) : "-",
         has_token && !token->second.queue().empty() ? absl::StrJoin(token->second.queue(), ", ")
                                                     : "-"});
  }
  context.out << '\n';
  collections.Print(context.out);

  Table replicas({{"REPLICA OF"},
                  {"NODE"},
                  {"STATE"},
                  {"APPLIED SEQ", Table::Align::kRight},
                  {"BEHIND", Table::Align::kRight},
                  {"BYTES", Table::Align::kRight},
                  {"AGE", Table::Align::kRight},
                  {"UNSENT", Table::Align::kRight},
                  {"CONFLICTS", Table::Align::kRight},
                  {"MOUNT"}});
  for (const auto& replica : picture.replicas) {
    const auto* progress = picture.Progress(replica);
    const auto* on_node = picture.OnNode(replica);
    replicas.AddRow({replica.collection(), replica.node(), StateText(progress, on_node),
                     progress ? absl::StrCat(progress->applied_seq()) : "?",
                     progress ? HumanCount(progress->lag_records()) : "?",
                     progress ? HumanBytes(progress->lag_bytes()) : "?",
                     progress ? HumanDuration(FromProto(progress->lag())) : "?",
                     on_node ? HumanCount(on_node->pending_records()) : "?",
                     on_node ? HumanCount(on_node->conflicts()) : "?", replica.mount_dir()});
  }
  context.out << '\n';
  replicas.Print(context.out);
  for (const auto& replica : picture.replicas) {
    const auto* on_node = picture.OnNode(replica);
    if (on_node == nullptr || on_node->error().empty()) continue;
    context.out << "\n"
                << replica.collection() << " on " << replica.node() << ": " << on_node->error()
                << '\n';
  }
}

void PrintPictureJson(Context& context, const Picture& picture) {
  nlohmann::ordered_json json;
  const auto add = [&json](const char* key, const auto& messages) {
    json[key] = nlohmann::ordered_json::array();
    for (const auto& message : messages) json[key].push_back(JsonOf(message));
  };
  const auto add_map = [&json](const char* key, const auto& messages) {
    json[key] = nlohmann::ordered_json::array();
    for (const auto& [name, message] : messages) json[key].push_back(JsonOf(message));
  };
  add("nodes", picture.nodes);
  add("collections", picture.collections);
  add("replicas", picture.replicas);
  add_map("tokens", picture.tokens);
  add_map("journals", picture.journals);
  std::vector<forwarder::v1::ReplicaProgress> progress;
  for (const auto& [name, all] : picture.progress) {
    progress.insert(progress.end(), all.begin(), all.end());
  }
  add("progress", progress);
  add_map("nodeStatus", picture.node_status);
  context.out << json.dump(2) << '\n';
}

// The first replica that is not live with nothing to do, for --check.
std::string FirstNotInSync(const Picture& picture) {
  for (const auto& replica : picture.replicas) {
    const std::string who =
        absl::StrCat("replica of ", replica.collection(), " on ", replica.node());
    const auto* progress = picture.Progress(replica);
    const auto* on_node = picture.OnNode(replica);
    const std::string state = StateText(progress, on_node);
    if (state != "live") return absl::StrCat(who, " is ", state);
    if (progress->lag_records() > 0) {
      return absl::StrCat(who, " is ", progress->lag_records(), " records behind");
    }
    if (on_node == nullptr) return absl::StrCat(who, " cannot be asked");
    if (on_node->pending_records() > 0) {
      return absl::StrCat(who, " has ", on_node->pending_records(), " unsent records");
    }
  }
  return "";
}

absl::StatusOr<ExitCode> Status(Context& context, const Options& options) {
  const auto picture = Look(context.client, options.collection);
  if (!picture.ok()) return picture.status();
  if (context.json) {
    PrintPictureJson(context, *picture);
  } else {
    PrintTables(context, *picture);
  }
  context.out.flush();
  for (const absl::Status& problem : picture->problems) {
    context.err << "mezzo: " << problem.message() << '\n';
  }
  if (options.check) {
    if (const std::string not_in_sync = FirstNotInSync(*picture); !not_in_sync.empty()) {
      context.err << "mezzo: " << not_in_sync << '\n';
      return ExitCode::kDifferences;
    }
  }
  return picture->problems.empty() ? ExitCode::kOk : ExitCodeFor(picture->problems.front());
}

}  // namespace

void AddStatus(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* status =
      app.add_subcommand("status", "Nodes, collections with their tokens, replicas with their lag");
  AddCollectionArgument(*status, options->collection)->required(false);
  status->add_flag("--check", options->check,
                   "Exit with 5 unless every replica is live with nothing behind or unsent");
  status->callback([&action, options] {
    action = [options](Context& context) { return Status(context, *options); };
  });
}

}  // namespace intermezzo::mezzo
