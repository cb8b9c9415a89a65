# Everything that Convoy's processes say to each other. Each top-level message travels as one frame: a
# single-segment Cap'n Proto message behind the link's fixed header (actors/link/link_wire.hpp), which names its type.
# Fields are only added, never renumbered: two versions of Convoy work in one cluster.
# Each field says its unit and, where it is not plain, who sets it.

@0xd1a3f2b09c47e865;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("convoy::schema");

enum Role {
  none @0;
  gateway @1;
  router @2;
  cache @3;
  pipeline @4;
  stage @5;
  node @6;
  client @7;       # a command-line tool that asks a node
}

# ---- links ----------------------------------------------------------------------------------------------------

struct Challenge {
  # First frame in both directions of both connections of a link, the connecting side's first (actors/link/link_proof.hpp).
  # Who cannot answer it is told nothing.
  nonce @0 :Data;            # 32 bytes, drawn for this connection
  mac @1 :Data;              # empty on the connecting side, which shows what it knows with its Hello
}

struct Proof {
  # Follows each frame of the handshake but the challenges: that the sender knows the cluster's secret.
  mac @0 :Data;              # HMAC-SHA-256
}

struct Hello {
  # After the challenges, in both directions of both connections of a link. Nothing else is parsed before it is
  # accepted.
  protocolVersion @0 :UInt16;  # the newest that the sender speaks
  cluster @1 :Text;          # names must be equal
  node @2 :Text;             # the sender's node name
  role @3 :Role;             # what the sending process is: node, stage or client
  instance @4 :UInt32;       # which stage; 0 for a node
  incarnation @5 :UInt64;    # new for every process start
  pid @6 :Int32;
  bulk @7 :Bool;             # the link's second connection
  linkId @8 :UInt64;         # drawn by the connecting side, joins its control and bulk connections
  kernelVariant @9 :Text;    # gpu::DeviceFacts::variant; results are bit-identical only between equal variants
  listenHost @10 :Text;      # where the sender accepts links itself; empty if it does not
  listenPort @11 :UInt16;
  lowestVersion @12 :UInt16;   # the oldest that the sender speaks: the highest that both do is used
  model @13 :Text;             # a stage's, a head's: digest of the weights and the configuration
  settings @14 :Text;          # what else shapes answers, as text: processes of a cluster have the same
  # What both ends must know: of each the smaller one counts on both.
  controlFrameBytesMax @15 :UInt64;
  bulkFrameBytesMax @16 :UInt64;
  bulkWindowBytes @17 :UInt64;
  leaseMs @18 :UInt32;
  device @19 :Text;          # a stage's: what it computes on, as "GPU 1" or "CPU"
  hiddenForm @20 :HiddenForm;  # a stage's: what it would hand over and take hidden states in, beside float32
  machine @21 :Text;         # a stage's: names the running system
  card @22 :Text;            # a stage's: names its GPU on that machine; empty: it has none
  edges @23 :Bool;           # a stage's: its device can exchange hidden states with another card's directly
}

struct HelloRefused {
  reason @0 :Text;
  retry @1 :Bool;            # the same Hello may be accepted later (a full house, a link that is just ending)
  linked @2 :Bool;           # because the two processes have a link
}

struct Lease {
  # Sent on the control connection every quarter of failure_detection_ms. Silence ends the lease.
  sequence @0 :UInt64;
}

struct Credit {
  # Receiver of bulk frames → their sender, on the control connection.
  bytes @0 :UInt64;          # bulk bytes taken off the connection since the last credit
}

struct Watch {
  # Someone monitors the actor (role, instance) of the frame's header: say Down when it ends.
  on @0 :Bool;
}

struct Down {
  role @0 :Role;
  instance @1 :UInt32;
  reason @2 :Text;
}

struct Revocations {
  # Between machines, at once and when it changes: which certificates count no more. The authority signs it, so it may
  # come from anybody, and goes on to all.
  list @0 :Data;             # X.509 revocation list, PEM
}

# ---- generation -----------------------------------------------------------------------------------------------

struct Sampling {
  temperature @0 :Float32;         # 0: greedy
  topK @1 :UInt32;                 # 0: all
  topP @2 :Float32 = 1;
  minP @3 :Float32;
  presencePenalty @4 :Float32;
  frequencyPenalty @5 :Float32;
  repetitionPenalty @6 :Float32 = 1;
  seed @7 :UInt64;                 # always set; drawn by the gateway when the client gave none
  logprobs @8 :Bool;
  topLogprobs @9 :UInt32;          # 0..20, besides the chosen token
  minTokens @10 :UInt32;           # end tokens are masked before that many were sampled
  endTokens @11 :List(Int32);      # empty with ignore_eos
}

struct ReplyTo {
  # Where a request's answer goes: the gateway actor of that node finds the session by the number.
  node @0 :Text;
  request @1 :UInt64;
}

struct Generate {
  # session → cache → router → pipeline
  requestId @0 :Text;              # for logs
  replyTo @1 :ReplyTo;
  tokens @2 :List(Int32);          # the prompt
  sampling @3 :Sampling;
  maxTokens @4 :UInt32;            # generated tokens at most
  deadlineMs @5 :UInt64;           # Unix time
  cacheKey @6 :Data;               # empty: neither look up nor store
  attempt @7 :UInt32;              # the session counts; answers of older attempts are ignored
  tenant @8 :Text;                 # who asks: all of a tenant's requests get one share of the pipeline
  salt @9 :Text;                   # who may find the prompt's KV blocks again: requests with the same one
  priority @10 :UInt8 = 5;         # 0..9: a higher one goes first
  drafts @11 :UInt32;              # tokens that may be guessed ahead in one step; 0: none
  generated @12 :List(Int32);      # the answer's tokens that the session has already, from an attempt before: it
                                   # goes on behind them. They count in maxTokens
}

struct Accepted {
  # pipeline → session, before the first token
  request @0 :UInt64;
  attempt @1 :UInt32;
  pipeline @2 :UInt32;             # instance: where Cancel goes
}

struct Rejected {
  enum Reason {
    overloaded @0;
    notReady @1;
    invalid @2;
  }
  request @0 :UInt64;
  attempt @1 :UInt32;
  reason @2 :Reason;
  message @3 :Text;
  retryAfterMs @4 :UInt32;
}

struct TokenLogprob {
  id @0 :Int32;
  logprob @1 :Float32;
}

struct Token {
  id @0 :Int32;
  logprob @1 :Float32;             # of the distribution before temperature and filters
  top @2 :List(TokenLogprob);      # best first
}

struct RequestFacts {
  # Where a request's time went; whole milliseconds.
  cachedTokens @0 :UInt32;         # of the prompt: found in KV blocks of earlier requests when it began
  preemptions @1 :UInt32;
  queueMs @2 :UInt32;              # until it first began
  prefillMs @3 :UInt32;
  decodeMs @4 :UInt32;
  preemptedMs @5 :UInt32;          # from each preemption until the next token
}

struct Tokens {
  # pipeline → session, or cache → session
  request @0 :UInt64;
  attempt @1 :UInt32;
  firstIndex @2 :UInt32;           # of the first token in the answer: makes the message idempotent
  tokens @3 :List(Token);
  fromCache @4 :Bool;
  facts @5 :RequestFacts;          # from the pipeline, beside the first tokens: so far
}

struct Finished {
  enum Reason {
    stop @0;                       # an end token, included in tokens
    length @1;
    cancelled @2;
    failed @3;                     # the answer is incomplete
  }
  request @0 :UInt64;
  attempt @1 :UInt32;
  reason @2 :Reason;
  tokens @3 :UInt32;               # how many the answer has: the session checks that it saw them all
  message @4 :Text;                # failed: what happened
  fromCache @5 :Bool;
  facts @6 :RequestFacts;          # from the pipeline, unless it failed
}

struct StepTokens {
  # pipeline → gateway: what a step gave to all requests of that gateway, which hands each session its part
  answers @0 :List(Tokens);
  finished @1 :List(Finished);     # behind their last tokens
}

struct Cancel {
  # session → pipeline: the client is gone, or a stop string was found
  replyTo @0 :ReplyTo;
}

struct Answer {
  # What Redis holds, sealed. Complete answers only.
  tokens @0 :List(Token);
  reason @1 :Finished.Reason;
}

struct Store {
  # session → cache, after a complete answer
  cacheKey @0 :Data;
  answer @1 :Answer;
}

struct PipelineState {
  # pipeline → gateway, router and node, on every change and at least four times in readiness_period_ms
  pipeline @0 :UInt32;
  ready @1 :Bool;                  # a token went through all stages within readiness_period_ms
  reason @2 :Text;                 # why not
  epoch @3 :UInt64;
  running @4 :UInt32;
  waiting @5 :UInt32;
  stages @6 :List(StageState);
  accepting @7 :Bool;              # all stages are loaded and linked: requests may be sent
  kvBlocksUsed @8 :UInt32;         # blocks of 64 tokens that hold something, of one stage: all have the same
  kvBlocksTotal @9 :UInt32;        # 0: not said
  stepsInFlight @10 :UInt32;
  microBatches @11 :UInt32;        # of the steps in flight, those that sample: groups of decodes, ends of prompts
  rowsPerStep @12 :Float32;        # of the latest steps of requests, on average; 0: none yet
  overloaded @13 :Bool;            # one more request would be rejected now; why says reason
  waitEstimateMs @14 :UInt32;      # how long one more would wait until it begins, by measured rates
  waitingFor @15 :WaitingFor;      # what the next of those that wait lacks
  cachedBlocks @16 :UInt32;        # KV blocks that can be found again, whether or not a sequence holds them
  counters @17 :SchedulerCounters;
  retryAfterMs @18 :UInt32;        # if overloaded: when it is worth to try again
}

enum WaitingFor {
  nothing @0;                      # nobody waits
  slots @1;                        # sequences_max run
  blocks @2;                       # KV blocks
}

struct SchedulerCounters {
  # Since the pipeline began.
  promptTokens @0 :UInt64;         # of sequences that began, those that begin again included
  cachedTokens @1 :UInt64;         # of these, found in KV blocks of earlier ones
  preemptions @2 :UInt64;
  draftedTokens @3 :UInt64;        # guessed ahead
  acceptedTokens @4 :UInt64;       # of these, right
  savedBlocks @5 :UInt64;          # KV blocks that went to the stages' second tier
  loadedBlocks @6 :UInt64;         # and that came back from there
}

# ---- steps ----------------------------------------------------------------------------------------------------

struct SeqStart {
  slot @0 :UInt32;
  promptTokens @1 :UInt32;
  sampling @2 :Sampling;
  cachedTokens @3 :UInt32;         # what the slot's blocks hold already: its rows begin at this position
  history @4 :List(Int32);         # ids of these tokens, if penalties ask for them; else empty
}

struct SeqStep {
  slot @0 :UInt32;
  firstPosition @1 :UInt32;
  tokens @2 :List(Int32);          # a decode: 1; a chunk of a prompt: many; -1: what the slot sampled last,
                                   # which the first stage puts in
  sampledRows @3 :UInt32;          # how many of the last rows get logits and a sampled token
}

struct BlockChange {
  slot @0 :UInt32;
  index @1 :UInt32;                # which entry of the slot's block table
  block @2 :UInt32;
}

struct BlockMove {
  # A block of keys and values goes to a place of the stage's second tier, or comes back from there.
  enum Way {
    save @0;
    load @1;
  }
  way @0 :Way;
  block @1 :UInt32;
  place @2 :UInt32;
}

struct StepPlan {
  # pipeline → first stage; from there to each next one with the hidden states
  epoch @0 :UInt64;
  step @1 :UInt64;                 # numbered per epoch from 0 without gaps; stages run them in order
  starts @2 :List(SeqStart);
  sequences @3 :List(SeqStep);
  blockChanges @4 :List(BlockChange);
  ends @5 :List(UInt32);           # slots that are free after this step
  alone @6 :Bool;                  # no longer set: stages see it themselves
  moves @7 :List(BlockMove);       # before the rows, in this order; only if all stages said that they have places
}

enum HiddenForm {
  # Little endian.
  float32 @0;
  bfloat16 @1;
  edge @2;                   # none here: they go straight from device to device (EdgeOffer)
}

struct Activations {
  # stage k → stage k+1, on the bulk connection: a step, and what the layers so far made of its rows
  plan @0 :StepPlan;
  hidden @1 :UInt32;
  data @2 :Data;                   # [rows of the plan, hidden]
  hint @3 :Int32 = -1;             # from device to device on one machine, which alone know what it means; -1: none
  form @4 :HiddenForm;             # of data: float32, or what both stages' Hellos say
}

enum RowFault {
  none @0;
  notFinite @1;                    # a logit is infinite or not a number
  allMasked @2;                    # no token is left to choose
}

struct SampledTokens {
  slot @0 :UInt32;
  tokens @1 :List(Token);
  fault @2 :RowFault;              # then the tokens from faultRow on say nothing, and the sequence ends with an
                                   # error if it comes to them: not behind a draft that was not accepted
  faultRow @3 :UInt32;             # the first of the tokens that has the fault
}

struct StepResult {
  # last stage → pipeline, and → first stage: its tokens are the first rows of what comes next
  epoch @0 :UInt64;
  step @1 :UInt64;
  sequences @2 :List(SampledTokens);
}

# ---- stages and nodes -----------------------------------------------------------------------------------------

struct Assign {
  # pipeline → stage: what it is in this epoch. Raising the epoch empties its KV and its queue of steps.
  epoch @0 :UInt64;
  firstLayer @1 :UInt32;
  lastLayer @2 :UInt32;            # inclusive
  kvBlocks @3 :UInt32;             # blocks of 64 tokens; 0: as many as fit, which the stage reports
  slots @4 :UInt32;
  nextHost @5 :Text;               # where the next stage accepts links; empty: it connects to this one
  nextPort @6 :UInt16;             # the last one's next is the first. 0: there is only one stage
  nextInstance @7 :UInt32;
  kvBlocksBefore @8 :UInt32;       # that the other stages have, if kvBlocks is 0 and they have theirs already
}

struct EdgeOffer {
  # stage k → stage k+1, once both are assigned: hidden states of this epoch could go straight to your device.
  epoch @0 :UInt64;
  key @1 :Data;                    # 128 bytes that the ends find each other by; empty: the offer is taken back
}

struct EdgeReply {
  # stage k+1 → stage k
  epoch @0 :UInt64;
  up @1 :Bool;                     # this end is; else it will not be
  reason @2 :Text;                 # why not
}

enum Health {
  down @0;
  loading @1;
  ready @2;
  hung @3;
}

struct StageReport {
  # stage → pipeline, on every change and four times in failure_detection_ms
  epoch @0 :UInt64;
  instance @1 :UInt32;
  health @2 :Health;
  loadedPermille @3 :UInt32;
  oldestStepAgeMs @4 :UInt32;      # of the step that it computes, since it began; 0: it computes none
  reason @5 :Text;
  stepFixedUs @6 :Float32;         # what a step costs it, as measured: fixed + rows * perRow; 0, 0: not yet
  stepPerRowUs @7 :Float32;
  kvBlocks @8 :UInt32;             # that it holds; 0: it is not loaded, or does not say
  busyUs @9 :UInt64;               # that it had a step to compute, since it began
  clockUs @10 :UInt64;             # its clock by then, from any beginning; 0: it does not say
  kvPlaces @11 :UInt32;            # blocks that its second tier keeps; 0: it has none, or is not loaded
}

struct StageState {
  node @0 :Text;
  instance @1 :UInt32;
  pid @2 :Int32;
  firstLayer @3 :UInt32;
  lastLayer @4 :UInt32;
  health @5 :Health;
  reason @6 :Text;
  loadedPermille @7 :UInt32;
  restarts @8 :UInt32;             # processes that took the place of an earlier one, since the pipeline began
  kernelVariant @9 :Text;          # of its Hello, as the next
  device @10 :Text;
  bubbleRatio @11 :Float32;        # share of the latest second or so without a step to compute
}

struct ReplaceStage {
  # pipeline → node: end the process of this stage (kill −9) and start another
  instance @0 :UInt32;
  incarnation @1 :UInt64;          # of the process that is meant: a newer one is left alone. 0: any
  reason @2 :Text;
}

struct StatusQuery {
  # client → head node; answered with Status on the same link
  client @0 :UInt32;         # the instance of the client's Hello
}

struct Status {
  json @0 :Text;                   # the object that `convoy status --json` prints
}

struct Shutdown {
  # client → head node → other nodes: end every stage, then yourself
}
