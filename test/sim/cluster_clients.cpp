#include "test/sim/cluster_clients.hpp"

#include <algorithm>

#include "actors/stage/step_codec.hpp"

namespace sim {

using namespace convoy;
using actors::Frame;
using schema::Reading;
using std::chrono::milliseconds;

namespace {

constexpr milliseconds ask_again_after{30};

/// For messages, which are seldom needed.
struct Name {
  size_t index;
  friend std::ostream& operator<<(std::ostream& to, Name name) { return to << "request " << name.index + 1; }
};

}  // namespace

Clients::Clients(const ClusterWorld& world, Timeline& timeline)
    : world_(world),
      timeline_(timeline),
      views_(world.pipelines),
      sessions_(world.requests.size()),
      open_(world.requests.size()) {
  for (size_t i = 0; i < sessions_.size(); ++i)
    timeline_.after(us(world.requests[i].arrives_us), [this, i] { come(i); });
}

void Clients::come(size_t index) {
  const Request& r = world_.requests[index];
  const std::chrono::microseconds patience(static_cast<int64_t>(r.ends_after_us));
  if (r.ends == Ends::past_deadline)
    sessions_[index].deadline_ms =
        wall_ms(timeline_) +
        static_cast<uint64_t>(std::chrono::duration_cast<milliseconds>(patience).count());
  if (r.ends == Ends::cancelled) timeline_.after(patience, [this, index] { give_up(index); });
  ask(index);
}

/// An attempt, of which earlier ones' answers are ignored. Without a head it waits for the next one.
void Clients::ask(size_t index) {
  Session& session = sessions_[index];
  if (session.state == Session::State::ended) return;
  session.state = Session::State::asked;
  ++session.attempt;
  if (router_) actors::mail(router_, frame_of(index));
}

Frame<schema::Generate> Clients::frame_of(size_t index) const {
  const Request& r = world_.requests[index];
  const actors::NewSequence& s = r.sequence;
  const Session& session = sessions_[index];
  schema::FrameBuilder<schema::Generate> frame(256);
  frame->setModel(model_id);
  frame->initReplyTo().setNode("head");
  frame->getReplyTo().setRequest(r.number);
  auto tokens = frame->initTokens(static_cast<unsigned>(s.prompt.size()));
  for (unsigned i = 0; i < tokens.size(); ++i) tokens.set(i, s.prompt[i]);
  auto generated = frame->initGenerated(session.received);
  for (unsigned i = 0; i < generated.size(); ++i) generated.set(i, r.answer[i].id);
  actors::encode(s.sampling, frame->initSampling());
  frame->setMaxTokens(s.max_tokens);
  frame->setDeadlineMs(session.deadline_ms);
  frame->setAttempt(session.attempt);
  frame->setTenant(s.tenant);
  frame->setSalt(s.salt);
  frame->setPriority(s.priority);
  frame->setDrafts(s.drafts);
  return std::move(frame).finish();
}

void Clients::ask_later(size_t index) {
  timeline_.after(ask_again_after, [this, index, attempt = sessions_[index].attempt] {
    if (sessions_[index].attempt == attempt) ask(index);
  });
}

/// The client is gone.
void Clients::give_up(size_t index) {
  Session& session = sessions_[index];
  if (session.state == Session::State::ended) return;
  end(session, &Answers::cancelled);
  cancel(index, session.pipeline);
}

/// At whichever pipeline has it, if none is named.
void Clients::cancel(size_t index, const std::optional<size_t>& pipeline) {
  if (!router_) return;
  schema::FrameBuilder<schema::Cancel> cancel;
  cancel->initReplyTo().setNode("head");
  cancel->getReplyTo().setRequest(world_.requests[index].number);
  if (pipeline) cancel->setPipeline(name_of_pipeline(*pipeline));
  actors::mail(router_, std::move(cancel).finish());
}

void Clients::end(Session& session, uint64_t Answers::*how) {
  session.state = Session::State::ended;
  --open_;
  ++(answers_.*how);
}

void Clients::serve(actors::RouterActor router, std::vector<actors::PipelineActor> pipelines) {
  router_ = std::move(router);
  pipelines_ = std::move(pipelines);
  for (size_t i = 0; i < sessions_.size(); ++i)
    if (sessions_[i].state == Session::State::asked || sessions_[i].state == Session::State::accepted) ask(i);
}

void Clients::lose_head() {
  router_ = nullptr;
  pipelines_.clear();
  for (View& view : views_)
    view = {.epochs = view.epochs, .preempted_before = view.preempted_before + view.preempted};
}

/// The frame comes twice to the pipeline that took it: by the router it might come to another one, or be
/// rejected while it runs. No link does that.
bool Clients::duplicate(uint64_t draw) {
  const size_t index = draw % sessions_.size();
  const Session& session = sessions_[index];
  if (session.state == Session::State::coming || session.state == Session::State::asked) return false;
  ++answers_.duplicates;
  timeline_.after(std::chrono::microseconds(draw % 300'000),
                  [this, frame = frame_of(index), to = session.pipeline.value_or(0)] {
                    if (!pipelines_.empty()) actors::mail(pipelines_[to], frame);
                  });
  return true;
}

bool Clients::ask_again(uint64_t draw) {
  const size_t index = draw % sessions_.size();
  if (!router_ || sessions_[index].state != Session::State::accepted) return false;
  ++answers_.asked_again;
  ask(index);
  return true;
}

// ---- what comes back ----

void Clients::hear(const caf::message& said) {
  const auto as = [&said]<class T>(const Frame<T>*) -> const Frame<T>* {
    return said.match_elements<Frame<T>>() ? &said.get_as<Frame<T>>(0) : nullptr;
  };
  if (const auto* frame = as(static_cast<Frame<schema::Accepted>*>(nullptr)))
    return accepted(*Reading(*frame));
  if (const auto* frame = as(static_cast<Frame<schema::Rejected>*>(nullptr)))
    return rejected(*Reading(*frame));
  if (const auto* frame = as(static_cast<Frame<schema::PipelineState>*>(nullptr)))
    return take(*Reading(*frame));
  if (const auto* frame = as(static_cast<Frame<schema::Finished>*>(nullptr))) return take(*Reading(*frame));
  const auto* frame = as(static_cast<Frame<schema::StepTokens>*>(nullptr));
  require(frame, "the gateway hears what it does not know");
  const Reading step(*frame);
  for (const auto tokens : step->getAnswers()) take(tokens);
  for (const auto finished : step->getFinished()) take(finished);
}

/// Nothing: the answer of an attempt that nobody waits for.
Clients::Session* Clients::current(uint64_t number, uint32_t attempt) {
  Session& session = sessions_.at(number - 1);
  require(attempt <= session.attempt, Name{number - 1}, " is answered before it is asked for");
  return session.state == Session::State::ended || session.attempt != attempt ? nullptr : &session;
}

void Clients::accepted(schema::Accepted::Reader accepted) {
  const size_t index = accepted.getRequest() - 1;
  Session* session = current(accepted.getRequest(), accepted.getAttempt());
  // Nobody waits for it: its Cancel went elsewhere, or overtook it.
  if (sessions_[index].state == Session::State::ended) cancel(index, {});
  if (!session) return;
  require(session->state == Session::State::asked, Name{index}, " is accepted twice");
  session->state = Session::State::accepted;
  session->pipeline = pipeline_named(accepted.getName().cStr());
  session->epochs = views_[*session->pipeline].epochs;
}

void Clients::rejected(schema::Rejected::Reader rejected) {
  Session* session = current(rejected.getRequest(), rejected.getAttempt());
  if (!session) return;
  const size_t index = rejected.getRequest() - 1;
  require(rejected.getReason() != schema::Rejected::Reason::INVALID, Name{index},
          " is refused: ", rejected.getMessage().cStr());
  require(session->state == Session::State::asked, Name{index}, " is rejected when it runs");
  ++answers_.rejected;
  ask_later(index);
}

void Clients::take(schema::Tokens::Reader tokens) {
  Session* session = current(tokens.getRequest(), tokens.getAttempt());
  if (!session) return;
  const size_t index = tokens.getRequest() - 1;
  const Request& r = world_.requests[index];
  require(session->state == Session::State::accepted, Name{index}, " gets tokens unasked");
  require(tokens.getFirstIndex() == session->received, Name{index}, " gets token ", tokens.getFirstIndex(),
          " behind ", session->received);
  for (const auto token : tokens.getTokens()) {
    require(session->received < r.answer.size(), Name{index}, " gets more tokens than alone");
    const gpu::SampledToken& right = r.answer[session->received];
    require(right.fault == gpu::RowFault::none && token.getId() == right.id &&
                token.getLogprob() == right.logprob,
            Name{index}, " gets ", token.getId(), " as token ", session->received, ", alone ", right.id);
    ++session->received;
    ++answers_.tokens;
  }
  const auto gave_before = std::exchange(session->gave, session->pipeline);
  answers_.moved += gave_before && gave_before != session->gave;
}

void Clients::take(schema::Finished::Reader finished) {
  Session* session = current(finished.getRequest(), finished.getAttempt());
  if (!session) return;
  const size_t index = finished.getRequest() - 1;
  const Request& r = world_.requests[index];
  using Reason = schema::Finished::Reason;
  require(session->state == Session::State::accepted, Name{index}, " ends unasked");
  require(finished.getTokens() == session->received, Name{index}, " ends behind ", finished.getTokens(),
          " tokens, has ", session->received);
  if (finished.getReason() != Reason::FAILED) {
    const auto right = r.finish == actors::FinishReason::stop ? Reason::STOP : Reason::LENGTH;
    require(r.finish != actors::FinishReason::failed && finished.getReason() == right &&
                session->received == r.answer.size(),
            Name{index}, " ends otherwise than alone");
    answers_.by_second += session->pipeline > size_t{0};
    return end(*session, &Answers::complete);
  }
  const std::string why = finished.getMessage();
  if (why.find("gateway.request_timeout_ms") != why.npos) {
    require(session->deadline_ms != 0 && session->deadline_ms < wall_ms(timeline_), Name{index},
            " misses a deadline that it does not have");
    return end(*session, &Answers::past_deadline);
  }
  if (why.find("pipeline.replays_max") != why.npos) {
    // Each replay needs an epoch that ended.
    require(views_[*session->pipeline].epochs >= session->epochs + world_.limits.replays_max, Name{index},
            " fails although it was not often replayed: ", why);
    return end(*session, &Answers::replayed_too_often);
  }
  require(r.finish == actors::FinishReason::failed &&
              session->received + r.sequence.drafts + 1 >= r.answer.size(),
          Name{index}, " fails: ", why);
  end(*session, &Answers::row_faults);
}

void Clients::take(schema::PipelineState::Reader state) {
  View& view = views_.at(pipeline_named(state.getName().cStr()));
  view.ready = state.getReady();
  view.why_not_ready = state.getReason();
  // Nothing that happens here makes a stage fail.
  for (const auto stage : state.getStages()) {
    const std::string why = stage.getReason();
    require(!why.starts_with("failed"), "a stage is given up: ", why);
  }
  view.idle = state.getRunning() + state.getWaiting() == 0 && state.getKvBlocksUsed() == 0;
  view.epochs += state.getEpoch() > view.epoch;
  require(state.getEpoch() >= view.epoch, "the epoch of ", state.getName().cStr(), " goes back to ",
          state.getEpoch(), " from ", view.epoch);
  view.epoch = state.getEpoch();
  view.preempted = state.getCounters().getPreemptions();
  view.running = state.getRunning(), view.waiting = state.getWaiting();
  view.stages = state.getStages().size();
}

bool Clients::all_of_one_stage() const {
  return std::ranges::all_of(views_, [](const View& view) { return view.stages == 1; });
}

bool Clients::rest() const {
  return std::ranges::all_of(views_, [](const View& view) { return view.ready && view.idle; });
}

uint64_t Clients::preemptions() const {
  uint64_t all = 0;
  for (const View& view : views_) all += view.preempted_before + view.preempted;
  return all;
}

std::string Clients::describe() const {
  std::ostringstream text;
  for (const View& view : views_)
    text << " " << (view.ready ? "ready" : view.why_not_ready) << ", " << view.running << " run, "
         << view.waiting << " wait, " << view.preempted << " preemptions;";
  for (size_t i = 0; i < sessions_.size(); ++i)
    if (sessions_[i].state != Session::State::ended)
      text << " " << Name(i) << " has " << sessions_[i].received << " of " << world_.requests[i].answer.size()
           << " tokens;";
  return text.str();
}

}  // namespace sim
