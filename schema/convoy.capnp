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
  client @7;       # a command-line tool that asks a node; a stage's process that asks the head for its model
  weights @8;      # who gives weights to machines without the model
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
  role @3 :Role;             # what the sending process is: node, stage, gateway or client
  instance @4 :UInt32;       # which of its node's stages; 0 for a node
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
  memoryBytes @24 :UInt64;   # a stage's: of its card or, without one, of its machine, that processes of the
                             # cluster may use; 0: not known
  program @25 :Text;         # its version, for people
  pipeline @26 :Text;        # a stage's: which one its node serves; empty: the cluster's first
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

struct Enrol {
  # A machine that has no certificate yet → the head, in TLS, in place of a challenge; a Proof follows it, whose key the
  # token's secret and this connection make (actors/link/enrolment.hpp).
  token @0 :Data;            # 8 bytes: which one
  node @1 :Text;             # the name that it wants
  request @2 :Data;          # PKCS #10, PEM: of a key that stays there
  listen @3 :Text;           # HOST:PORT, where it will accept links
  stages @4 :UInt32;
  pipeline @5 :Text;         # that its stages serve; empty: the cluster's first
  http @6 :Text;             # HOST:PORT of a gateway that it will run; empty: it runs none
}

struct Enrolled {
  # The head's answer; a Proof follows it.
  certificate @0 :Data;      # PEM, as the next two
  authority @1 :Data;
  revocations @2 :Data;      # empty: there are none
  configuration @3 :Text;    # cluster.conf, with that node in it
}

struct EnrolRefused {
  enum Reason {
    failed @0;               # by the head's own fault
    malformed @1;
    unknownToken @2;
    usedToken @3;            # as often as it may be
    expiredToken @4;
    nameTaken @5;
    unknownNode @6;          # cluster.conf does not list it, and this head takes no others
    noAuthority @7;          # the key that signs certificates is not on the head's machine
    busy @8;                 # try again
  }
  reason @0 :Reason;
  text @1 :Text;             # for whoever asked
}

struct Renew {
  # A node → the head, on their link: its certificate ends soon.
  request @0 :Data;          # PKCS #10, PEM: of the key that it has
}

struct Renewed {
  # The head → that node
  certificate @0 :Data;      # PEM
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
  # Where a request's answer goes: the gateway of that node finds the session by the number. A gateway can name its own
  # node alone.
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
  model @13 :Text;                 # its id: the router takes one of the pipelines that serve it
}

struct Accepted {
  # pipeline → session, before the first token
  request @0 :UInt64;
  attempt @1 :UInt32;
  pipeline @2 :UInt32;             # no longer set: pipelines have names
  name @3 :Text;                   # the pipeline's: where Cancel goes
  incarnation @4 :UInt64;          # the pipeline's: new for every process start
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
  # session → router → pipelines: the client is gone, or a stop string was found
  replyTo @0 :ReplyTo;
  pipeline @1 :Text;               # that accepted it; empty: whichever runs it
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
  pipeline @0 :UInt32;             # no longer set: pipelines have names
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
  members @19 :List(Member);       # without those that were removed
  name @20 :Text;                  # as cluster.conf calls it: identifies the pipeline
  model @21 :Text;                 # id of the model that it serves
  incarnation @22 :UInt64;         # new for every process start
}

struct Member {
  # A node of the cluster, and what it has in the plan.
  enum State {
    joining @0;                    # its stages are not all there yet
    serving @1;
    draining @2;                   # out of the plan, its stages have not all ended
    drained @3;
  }
  node @0 :Text;
  listen @1 :Text;                 # host:port
  stages @2 :UInt32;               # that it runs, or ran
  state @3 :State;
  reason @4 :Text;                 # why it does not join
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
  nextNode @9 :Text;               # whose stage nextInstance is
  position @10 :UInt32;            # in the pipeline, for logs
  stepsInFlight @11 :UInt32;       # of the pipeline, at most: more at once are its mistake
  pipeline @12 :Text;              # its name: a stage of another one drops this
  incarnation @13 :UInt64;         # of the pipeline
}

struct Prepare {
  # pipeline → stage that lacks the model's files: the plan to come gives it these layers; it may fetch them
  firstLayer @0 :UInt32;
  lastLayer @1 :UInt32;            # inclusive
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
  lacksModel @12 :Bool;            # the model's files are not on its machine: it fetches what it needs
  fetched @13 :Bool;               # it has all weights of these layers:
  fetchedFirst @14 :UInt32;
  fetchedLast @15 :UInt32;         # inclusive
  fetchProgress @16 :UInt64;       # grows while it fetches others
  pipeline @17 :Text;              # that it serves; empty: the cluster's first
}

struct StageState {
  node @0 :Text;
  instance @1 :UInt32;             # which of its node's
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
  layerUs @12 :Float32;            # what a layer takes it of a step of a few rows; 0: not measured yet
  memoryBytes @13 :UInt64;         # of its Hello, as the next
  machine @14 :Text;
  card @15 :Text;
}

struct ReplaceStage {
  # pipeline → node: end the process of this stage (kill −9) and start another
  instance @0 :UInt32;
  incarnation @1 :UInt64;          # of the process that is meant: a newer one is left alone. 0: any
  reason @2 :Text;
  node @3 :Text;             # whose stage it is
  pipeline @4 :Text;         # that it served, for logs
}

struct KeepStages {
  # head node → node, when they are linked and when it changes: run so many stages, and end those beyond
  stages @0 :UInt32;
}

struct NodeProblem {
  # node → head node, when they are linked and when it changes: why its stages cannot run
  text @0 :Text;                   # empty: nothing is known against it
}

struct MemberCommand {
  # client → head node → pipeline; answered with MemberReply
  enum Kind {
    add @0;
    undrain @1;
    drain @2;
    remove @3;
  }
  client @0 :UInt32;               # the instance of the client's Hello
  kind @1 :Kind;
  node @2 :Text;
  listen @3 :Text;                 # host:port of the node, to add
  stages @4 :UInt32;               # that it runs, to add
  pipeline @5 :Text;               # that they serve, to add; empty: the cluster's first
}

struct MemberReply {
  client @0 :UInt32;
  refused @1 :Text;                # why; empty: it is done, and kept
}

struct StatusQuery {
  # client → head node; answered with Status on the same link
  client @0 :UInt32;         # the instance of the client's Hello
}

struct Status {
  json @0 :Text;                   # the object that `convoy status --json` prints
}

struct Shutdown {
  # client → head node → gateways of its machine: let your answers end, then yourself; → other nodes there: end every stage,
  # then yourself
}

# ---- gateways -------------------------------------------------------------------------------------------------

struct ModelTerms {
  # What a gateway has to know of a model whose files it may have, or not.
  id @0 :Text;
  created @1 :Int64;         # Unix seconds
  contextTokens @2 :UInt64;
  vocab @3 :UInt64;
  endTokens @4 :List(Int32);
  digest @5 :Text;           # of the weights; empty: not known yet, and no answers are kept
  arithmetic @6 :Text;       # what in the head's configuration shapes answers' bits
  tokenizer @7 :Text;        # digest of the tokenizer; empty: there is none, token ids alone are served
  chatTemplate @8 :Text;     # Jinja; empty: no chat completions
  aliases @9 :List(Text);    # further names that clients may ask for it by
  pipeline @10 :Text;        # one that serves it
}

struct GatewayTerms {
  # head → gateway of another process, when they are linked and when it changes: what shapes answers
  models @0 :List(ModelTerms);     # the default first
  asksForKeys @1 :Bool;            # GatewayKeys says which count
  answerKey @2 :Data;              # of the HMAC that names answers in the cache; empty: none are kept
  cacheEpoch @3 :UInt64;
  frameBytesMax @4 :UInt64;        # of a Generate or a Store
}

struct GatewayKeys {
  # head → gateway of another process, as GatewayTerms: which API keys count
  lines @0 :Text;            # of the keys' file: digests, not what opens
}

struct GatewayState {
  # gateway of another process → head node, every second and on every change
  url @0 :Text;
  ready @1 :Bool;            # its /readyz
  reason @2 :Text;           # why not
  connections @3 :UInt32;
}

# ---- weights --------------------------------------------------------------------------------------------------
# Of a model whose files are on the head's machine, to the process of a stage whose machine has them not. It asks, and
# what comes is what it asked for, in that order: so many parts at a time as it likes.

struct OutlineQuery {
  # the process of a stage → the head
  known @0 :List(Text);      # digests of the models whose outline it has
}

struct ModelOutline {
  # What is known of the files before any weight is. Headers are as they stand in the files.
  struct Part {
    begin @0 :UInt64;        # in its file
    bytes @1 :Data;
  }
  struct File {
    name @0 :Text;
    bytes @1 :UInt64;
    parts @2 :List(Part);
  }
  digest @0 :Text;           # the model's
  name @1 :Text;             # of its folder or file
  gguf @2 :Bool;
  tiedHead @3 :Bool;
  files @4 :List(File);      # none: the digest is one of those that are known
  refused @5 :Text;          # why there is none
}

struct TensorQuery {
  # the process of a stage → the head: bytes of a tensor, as they stand in the files
  name @0 :Text;
  begin @1 :UInt64;
  bytes @2 :UInt32;          # 0: its digest alone
  model @3 :Text;            # the model's digest
}

struct TensorPart {
  # the head → that process
  name @0 :Text;
  begin @1 :UInt64;
  data @2 :Data;
  digest @3 :Text;           # SHA-256 of the whole tensor, hex, if that was asked for
  refused @4 :Text;          # why nothing comes
}
