// mezzo journal tail|show
#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "services/common/record/codec.h"
#include "services/common/types/numbers.h"
#include "services/mezzo/command.h"
#include "services/mezzo/json.h"
#include "services/mezzo/table.h"
#include "services/mezzo/units.h"

namespace intermezzo::mezzo {
namespace {

struct Options {
  std::string collection;
  uint64_t last = 10;
  uint64_t from_seq = 0;
  uint64_t count = 0;
  uint64_t seq = 0;
};

// An entry with its record opened.
nlohmann::ordered_json EntryJson(const record::v1::Entry& entry) {
  nlohmann::ordered_json json;
  json["entry"] = JsonOf(entry);
  const auto record = OpenRecord(entry);
  json["record"] = record.ok() ? JsonOf(*record) : nullptr;
  return json;
}

// Names of nodes by the ordinal of an incarnation; only the last incarnation of each is known.
class Origins {
 public:
  explicit Origins(Client& client) {
    const auto nodes = client.ListNodes();
    if (!nodes.ok()) return;  // ordinals are shown instead
    for (const auto& node : nodes->nodes()) names_[node.ordinal()] = node.name();
  }
  std::string Name(Version version) const {
    const auto found = names_.find(version.ordinal().value());
    return found != names_.end() ? found->second : absl::StrCat("#", version.ordinal().value());
  }

 private:
  std::map<uint64_t, std::string> names_;
};

std::string TimeText(int64_t unix_ns) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%E3S", absl::FromUnixNanos(unix_ns),
                          absl::LocalTimeZone());
}

// "  1042  2024-03-01 12:00:00.123  node-1  3  write 4096 B at 0 of 1:7  (1.2 KiB)"
std::string Line(const record::v1::Entry& entry, const Origins& origins) {
  const auto record = OpenRecord(entry);
  if (!record.ok()) {
    return absl::StrFormat("%8u  %s  a record that cannot be read: %s", entry.seq(),
                           TimeText(entry.committed_ns()), record.status().message());
  }
  std::string line =
      absl::StrFormat("%8u  %s  %-10s %4u  %s", entry.seq(), TimeText(entry.committed_ns()),
                      origins.Name(Version(record->version())), record->epoch(), Describe(*record));
  if (entry.payload_length() > 0) {
    absl::StrAppend(&line, "  (", HumanBytes(entry.payload_length()), ")");
  }
  return line;
}

// Prints the feed; where the journal-service goes away it is awaited for half a minute.
absl::StatusOr<ExitCode> Tail(Context& context, const Options& options) {
  const auto journal = context.client.GetJournal(options.collection);
  if (!journal.ok()) return journal.status();
  uint64_t next = options.from_seq;
  if (next == 0) {
    const uint64_t first = std::max<uint64_t>(journal->first_seq(), 1);
    next = journal->head_seq() + 1 > options.last ? journal->head_seq() + 1 - options.last : 1;
    next = std::max(next, first);
  }
  const Origins origins(context.client);
  std::string chain;
  uint64_t printed = 0;
  constexpr absl::Duration kPatience = absl::Seconds(30);
  absl::Time give_up = absl::Now() + kPatience;
  bool connected_before = false;
  while (true) {
    journal::v1::SubscribeRequest request;
    request.set_collection(options.collection);
    request.set_from_seq(next);
    request.set_previous_chain(chain);
    request.set_skip_payloads(true);
    const absl::Status status = context.client.Subscribe(request, [&](const auto& response) {
      connected_before = true;
      give_up = absl::Now() + kPatience;
      for (const record::v1::Entry& entry : response.entries()) {
        if (context.json) {
          context.out << EntryJson(entry).dump() << '\n';
        } else {
          context.out << Line(entry, origins) << '\n';
        }
        next = entry.seq() + 1;
        chain = entry.chain();
        if (++printed == options.count) break;
      }
      context.out.flush();
      // A reader that went away (head, less) ends the feed.
      return context.out.good() && (options.count == 0 || printed < options.count);
    });
    if (status.ok()) return ExitCode::kOk;
    if (!absl::IsUnavailable(status) || !connected_before || absl::Now() > give_up) return status;
    context.err << "mezzo: " << status.message() << "; trying again from seq " << next << '\n';
    absl::SleepFor(absl::Seconds(1));
  }
}

absl::StatusOr<ExitCode> ShowJournal(Context& context, const Options& options) {
  const auto journal = context.client.GetJournal(options.collection);
  if (!journal.ok()) return journal.status();
  if (context.json) {
    PrintJson(context.out, *journal);
    return ExitCode::kOk;
  }
  Table table({{"COLLECTION"},
               {"HEAD", Table::Align::kRight},
               {"FIRST KEPT", Table::Align::kRight},
               {"RECORDS KEPT", Table::Align::kRight},
               {"EVER APPENDED", Table::Align::kRight},
               {"EPOCH", Table::Align::kRight},
               {"CHAIN"}});
  table.AddRow({journal->collection(), absl::StrCat(journal->head_seq()),
                absl::StrCat(journal->first_seq()),
                HumanCount(journal->head_seq() + 1 - journal->first_seq()),
                HumanBytes(journal->head_bytes()), absl::StrCat(journal->epoch()),
                Hex(journal->head_chain())});
  table.Print(context.out);
  return ExitCode::kOk;
}

absl::StatusOr<ExitCode> ShowEntries(Context& context, const Options& options) {
  const int count = static_cast<int>(std::clamp<uint64_t>(options.count, 1, 100000));
  const auto entries = context.client.ListEntries(options.collection, options.seq, count);
  if (!entries.ok()) return entries.status();
  if (entries->entries().empty()) {
    return absl::NotFoundError(absl::StrCat("the journal of '", options.collection,
                                            "' has no record ", options.seq,
                                            "; 'mezzo journal show' says which it has"));
  }
  if (context.json) {
    nlohmann::ordered_json all = nlohmann::ordered_json::array();
    for (const auto& entry : entries->entries()) all.push_back(EntryJson(entry));
    context.out << all.dump(2) << '\n';
    return ExitCode::kOk;
  }
  const Origins origins(context.client);
  for (const auto& entry : entries->entries()) context.out << Line(entry, origins) << '\n';
  if (entries->entries_size() > 1) return ExitCode::kOk;
  const auto record = OpenRecord(entries->entries(0));
  if (record.ok()) context.out << '\n' << record->Utf8DebugString();
  context.out << "chain: " << Hex(entries->entries(0).chain()) << '\n';
  return ExitCode::kOk;
}

}  // namespace

void AddJournal(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* group = AddGroup(app, "journal", "The ordered journal of a collection");

  CLI::App* tail = group->add_subcommand("tail", "Print records as they are made");
  AddCollectionArgument(*tail, options->collection);
  tail->add_option("-n,--last", options->last, "Begin with this many of the last records")
      ->capture_default_str();
  tail->add_option("--from", options->from_seq, "Begin with this seq instead");
  tail->add_option("--count", options->count, "End after this many records (0: never)");
  tail->callback([&action, options] {
    action = [options](Context& context) { return Tail(context, *options); };
  });

  CLI::App* show =
      group->add_subcommand("show", "Show the journal's state, or with --seq its records");
  AddCollectionArgument(*show, options->collection);
  CLI::Option* seq = show->add_option("--seq", options->seq, "Show the record with this seq");
  show->add_option("--count", options->count, "and this many from there on")->needs(seq);
  show->callback([&action, options] {
    action = [options](Context& context) {
      return options->seq == 0 ? ShowJournal(context, *options) : ShowEntries(context, *options);
    };
  });
}

}  // namespace intermezzo::mezzo
