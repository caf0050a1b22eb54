// mezzo token show|release
#include <CLI/CLI.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "services/common/config/config.h"
#include "services/mezzo/command.h"
#include "services/mezzo/json.h"
#include "services/mezzo/poll.h"
#include "services/mezzo/table.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

struct Options {
  std::string collection;
  bool force = false;
  absl::Duration timeout = absl::Seconds(15);
};

void Print(Context& context, const token::v1::Token& token) {
  if (context.json) {
    PrintJson(context.out, token);
    return;
  }
  Table table({{"COLLECTION"},
               {"HOLDER"},
               {"EPOCH", Table::Align::kRight},
               {"LEASE", Table::Align::kRight},
               {"RECALLED"},
               {"QUEUE"}});
  const bool held = !token.holder().empty();
  table.AddRow({token.collection(), held ? token.holder() : "-", absl::StrCat(token.epoch()),
                held ? HumanDuration(FromProto(token.remaining())) : "-",
                token.recalling() ? "yes" : "no",
                token.queue().empty() ? "-" : absl::StrJoin(token.queue(), ", ")});
  table.Print(context.out);
}

absl::StatusOr<ExitCode> Show(Context& context, const Options& options) {
  const auto token = context.client.GetToken(options.collection);
  if (!token.ok()) return token.status();
  Print(context, *token);
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> Release(Context& context, const Options& options) {
  const auto before = context.client.GetToken(options.collection);
  if (!before.ok()) return before.status();
  // Before the first grant there is nothing to give back.
  if (before->epoch() != 0) {
    absl::Status status =
        context.client.RecallToken(options.collection, options.force, before->epoch());
    if (!status.ok()) return status;
  }
  // The grant is gone when nobody holds the token, or somebody by a later grant.
  absl::StatusOr<token::v1::Token> now = before;
  const bool released = PollUntil(absl::Now() + options.timeout, [&] {
    now = context.client.GetToken(options.collection);
    return !now.ok() || now->holder().empty() || now->epoch() != before->epoch();
  });
  if (!now.ok()) return now.status();
  if (!released) {
    return absl::DeadlineExceededError(absl::StrCat(
        "node '", before->holder(), "' was asked for the token of '", options.collection,
        "' and still holds it after ", HumanDuration(options.timeout),
        "; it is expired at the end of its lease, or at once with --force (which may leave updates "
        "of that node to its reconnection)"));
  }
  Print(context, *now);
  return ExitCode::kOk;
}

}  // namespace

void AddToken(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* group = AddGroup(app, "token", "Write tokens");

  CLI::App* show = group->add_subcommand("show", "Who holds the token, its epoch, who waits");
  AddCollectionArgument(*show, options->collection);
  show->callback([&action, options] {
    action = [options](Context& context) { return Show(context, *options); };
  });

  CLI::App* release =
      group->add_subcommand("release", "Ask the holder to flush and give the token back");
  AddCollectionArgument(*release, options->collection);
  release->add_flag("--force", options->force,
                    "Take it away at once, fencing the holder, without its flush");
  AddTimeOption(*release, "--timeout", options->timeout, "How long the holder may take");
  release->callback([&action, options] {
    action = [options](Context& context) { return Release(context, *options); };
  });
}

}  // namespace intermezzo::mezzo
