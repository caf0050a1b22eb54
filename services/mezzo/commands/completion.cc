// mezzo completion bash|zsh: prints a completion script, made from the command line's own tree.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/mezzo/command.h"

namespace intermezzo::mezzo {
namespace {

// The words that may follow a command: its subcommands and options with those of its parents.
std::vector<std::string> Words(const CLI::App& app) {
  std::vector<std::string> words;
  for (const CLI::App* child : app.get_subcommands({})) {
    if (!child->get_group().empty()) words.push_back(child->get_name());
  }
  for (const CLI::App* at = &app; at != nullptr; at = at->get_parent()) {
    for (const CLI::Option* option : at->get_options()) {
      for (const std::string& name : option->get_lnames()) {
        if (at == &app || (name != "help" && name != "version")) words.push_back("--" + name);
      }
    }
  }
  return words;
}

// One case of the script for each command: "collection create" and the words that may follow.
void AddCases(const CLI::App& app, const std::string& path, std::string& cases) {
  absl::StrAppend(&cases, "    '", path, "') choices='", absl::StrJoin(Words(app), " "), "' ;;\n");
  for (const CLI::App* child : app.get_subcommands({})) {
    AddCases(*child, path.empty() ? child->get_name() : absl::StrCat(path, " ", child->get_name()),
             cases);
  }
}

// All command paths, for finding the deepest one on the line.
void AddPaths(const CLI::App& app, const std::string& path, std::vector<std::string>& paths) {
  for (const CLI::App* child : app.get_subcommands({})) {
    const std::string below =
        path.empty() ? child->get_name() : absl::StrCat(path, " ", child->get_name());
    paths.push_back(below);
    AddPaths(*child, below, paths);
  }
}

// Up to the list of command paths.
constexpr char kBashBegin[] = R"sh(# bash completion of mezzo: source <(mezzo completion bash)
_mezzo() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  local command='' word choices='' i
  local paths=')sh";

// From there to the cases of the commands.
constexpr char kBashMiddle[] = R"sh('
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${command:+$command }${COMP_WORDS[i]}
    if [[ "|$paths|" == *"|$word|"* ]]; then command=$word; fi
  done
  case $prev in
    -o|--output) choices='table json' ;;
    --offline-writes) choices='allow deny' ;;
    --lower|--mount) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
    *) case $command in
)sh";

// After the cases: names of collections and nodes where they are wanted.
constexpr char kBashEnd[] = R"sh(    esac ;;
  esac
  if [[ $cur != -* ]]; then
    case $prev in
      show|delete|add|remove|release|tail|wait|verify|status)
        choices+=" $(mezzo __complete collections 2>/dev/null)" ;;
      *)
        if [[ $command == 'replica add' || $command == 'replica remove' ]]; then
          choices+=" $(mezzo __complete nodes 2>/dev/null)"
        fi ;;
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$cur")
}
complete -F _mezzo mezzo
)sh";

std::string BashScript(const CLI::App& root) {
  std::string cases;
  AddCases(root, "", cases);
  std::vector<std::string> paths;
  AddPaths(root, "", paths);
  return absl::StrCat(kBashBegin, absl::StrJoin(paths, "|"), kBashMiddle, cases, kBashEnd);
}

constexpr char kZshBegin[] = R"sh(#compdef mezzo
# zsh completion of mezzo: source <(mezzo completion zsh)
_mezzo() {
  local command='' word i previous=$words[CURRENT-1]
  local -a known
  known=()sh";

constexpr char kZshMiddle[] = R"sh()
  for ((i = 2; i < CURRENT; i++)); do
    word="${command:+$command }${words[i]}"
    if (( ${known[(Ie)$word]} )); then command=$word; fi
  done
  case $previous in
    -o|--output) compadd -- table json; return ;;
    --offline-writes) compadd -- allow deny; return ;;
    --lower|--mount) _files -/; return ;;
  esac
  local choices=''
  case $command in
)sh";

constexpr char kZshEnd[] = R"sh(  esac
  compadd -- ${=choices}
  case $previous in
    show|delete|add|remove|release|tail|wait|verify|status)
      compadd -- $(mezzo __complete collections 2>/dev/null) ;;
    *)
      if [[ $command == 'replica add' || $command == 'replica remove' ]]; then
        compadd -- $(mezzo __complete nodes 2>/dev/null)
      fi ;;
  esac
}
compdef _mezzo mezzo
)sh";

std::string ZshScript(const CLI::App& root) {
  std::string cases;
  AddCases(root, "", cases);
  std::vector<std::string> paths;
  AddPaths(root, "", paths);
  std::string known;
  for (const std::string& path : paths) absl::StrAppend(&known, "'", path, "' ");
  return absl::StrCat(kZshBegin, known, kZshMiddle, cases, kZshEnd);
}

absl::StatusOr<ExitCode> PrintNames(Context& context, const std::string& what) {
  if (what == "nodes") {
    const auto nodes = context.client.ListNodes();
    if (!nodes.ok()) return nodes.status();
    for (const auto& node : nodes->nodes()) context.out << node.name() << '\n';
  } else {
    const auto collections = context.client.ListCollections();
    if (!collections.ok()) return collections.status();
    for (const auto& one : collections->collections()) context.out << one.name() << '\n';
  }
  return ExitCode::kOk;
}

}  // namespace

void AddCompletion(CLI::App& app, Action& action) {
  CLI::App* group = AddGroup(app, "completion", "Print a completion script for a shell");
  group->add_subcommand("bash", "For bash: source <(mezzo completion bash)")
      ->callback([&app, &action] {
        action = [&app](Context& context) -> absl::StatusOr<ExitCode> {
          context.out << BashScript(app);
          return ExitCode::kOk;
        };
      });
  group->add_subcommand("zsh", "For zsh: source <(mezzo completion zsh)")
      ->callback([&app, &action] {
        action = [&app](Context& context) -> absl::StatusOr<ExitCode> {
          context.out << ZshScript(app);
          return ExitCode::kOk;
        };
      });
  // What the scripts call for names; not shown in help (an empty group hides it).
  const auto what = std::make_shared<std::string>();
  CLI::App* names = app.add_subcommand("__complete", "Print names for completion")->group("");
  names->add_option("WHAT", *what)->check(CLI::IsMember({"collections", "nodes"}))->required();
  names->callback([&action, what] {
    action = [what](Context& context) { return PrintNames(context, *what); };
  });
}

}  // namespace intermezzo::mezzo
