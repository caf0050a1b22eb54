#include "services/mezzo/progress.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "services/common/types/view.h"

namespace intermezzo::mezzo {

Progress::Progress(std::ostream& out, bool enabled, std::string title)
    : out_(out), enabled_(enabled), title_(std::move(title)) {}

Progress::~Progress() {
  if (!enabled_ || line_.empty()) return;
  Draw();
  out_ << '\n';
  out_.flush();
}

void Progress::Update(uint64_t done, uint64_t total, std::string_view note) {
  if (!enabled_) return;
  static constexpr int kBarWidth = 30;
  line_ = title_;
  if (total > 0) {
    const double part = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
    const int filled = static_cast<int>(part * kBarWidth);
    absl::StrAppend(&line_, " [", std::string(filled, '#'), std::string(kBarWidth - filled, ' '),
                    "] ", static_cast<int>(part * 100), "%");
  }
  if (!note.empty()) absl::StrAppend(&line_, "  ", View(note));
  if (absl::Now() - drawn_ >= absl::Milliseconds(100)) Draw();
}

void Progress::Clear() {
  if (!enabled_) return;
  if (on_screen_) out_ << "\r\x1b[K" << std::flush;
  on_screen_ = false;
  line_.clear();
}

void Progress::Draw() {
  drawn_ = absl::Now();
  on_screen_ = true;
  out_ << "\r\x1b[K" << line_ << std::flush;
}

bool StderrIsTerminal() { return isatty(STDERR_FILENO) == 1; }

}  // namespace intermezzo::mezzo
