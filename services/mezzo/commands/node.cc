// mezzo node list
#include <CLI/CLI.hpp>
#include <map>

#include "absl/strings/str_cat.h"
#include "services/mezzo/command.h"
#include "services/mezzo/json.h"
#include "services/mezzo/table.h"

namespace intermezzo::mezzo {
namespace {

absl::StatusOr<ExitCode> ListNodes(Context& context) {
  const auto nodes = context.client.ListNodes();
  if (!nodes.ok()) return nodes.status();
  if (context.json) {
    PrintJson(context.out, *nodes);
    return ExitCode::kOk;
  }
  const auto replicas = context.client.ListReplicas("");
  if (!replicas.ok()) return replicas.status();
  std::map<std::string, int> replica_count;
  for (const auto& replica : replicas->replicas()) ++replica_count[replica.node()];
  Table table({{"NAME"},
               {"CONNECTED"},
               {"REPLICAS", Table::Align::kRight},
               {"ORDINAL", Table::Align::kRight},
               {"ADDRESS"},
               {"INSTANCE"}});
  for (const auto& node : nodes->nodes()) {
    table.AddRow({node.name(), node.connected() ? "yes" : "no",
                  absl::StrCat(replica_count[node.name()]), absl::StrCat(node.ordinal()),
                  node.address(), node.instance()});
  }
  table.Print(context.out);
  return ExitCode::kOk;
}

}  // namespace

void AddNode(CLI::App& app, Action& action) {
  CLI::App* group = AddGroup(app, "node", "Nodes: machines with a sidecar");
  group->add_subcommand("list", "List the nodes that ever registered")->callback([&action] {
    action = ListNodes;
  });
}

}  // namespace intermezzo::mezzo
