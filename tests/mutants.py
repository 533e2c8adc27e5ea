"""Removes one guard at a time from a copy of the product, and runs the test that must fail then.

    make mutants

Prints the table of docs/reliability.md. Ends with 1 if a test did not fail.

One file, because it is one list of data.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 600.0

LINE = "tests/transitions/test_line.py::"
ATTEMPTS = "tests/transitions/test_attempts.py::"
SUBMITS = "tests/transitions/test_submits.py::"
REASONING = "tests/transitions/test_reasoning_marks.py::"
POOLS = "tests/transitions/test_pools.py::"
PREEMPTION = "tests/transitions/test_preemption.py::"
PREEMPTED = "tests/transitions/test_preempted_jobs.py::"
LIFELINES = "tests/transitions/test_lifelines.py::"
ROLLBACK = "tests/transitions/test_rollback.py::"
READINESS = "tests/transitions/test_readiness.py::"
MACHINE = "tests/transitions/test_state_machine.py::test_transitions[Scripts]"
DOUBLED = "tests/transitions/test_state_machine.py::test_transitions[DoubledScripts]"
FLUSHER = "tests/worker/test_flusher.py::"
FLUSHER_FAILURES = "tests/worker/test_flusher_failures.py::"
STREAM = "tests/integration/test_web_stream.py::"
STREAM_FAILURES = "tests/integration/test_web_stream_failures.py::"
HUB = "tests/integration/test_web_hub.py::"
FILES = "tests/transitions/test_files.py::"
BATCHES = "tests/transitions/test_batches.py::"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A guard: its file and text, and the text that replaces it."""

    guard: str
    file: str
    text: str
    without: str
    test: str

    def is_noticed(self) -> bool:
        """Returns whether the test fails on a copy without the guard."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
            copy.mkdir()
            archive = ["tar", "-c", "--null", "-T", "-"]
            packed = subprocess.run(archive, cwd=ROOT, input=files.stdout, check=True, capture_output=True)
            subprocess.run(["tar", "-x"], cwd=copy, input=packed.stdout, check=True)
            source = copy / self.file
            source.write_text(self.mutated(source.read_text()))
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "--basetemp",
                f"{folder}/pytest",
                self.test,
            ]
            ran = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        # 1: tests failed. Anything else (no such test, a usage error) proves nothing.
        if ran.returncode not in (0, 1):
            raise RuntimeError(f"{self.test}: pytest ended with {ran.returncode}\n{ran.stdout}{ran.stderr}")
        return ran.returncode == 1

    def mutated(self, source: str) -> str:
        """Returns `source` without the guard. Raises ValueError unless `source` has it exactly once."""
        if source.count(self.text) != 1:
            raise ValueError(f"{self.file}: {source.count(self.text)} times: {self.text}")
        return source.replace(self.text, self.without)


LUA = "tasks/lua/"
MUTANTS = [
    Mutant(
        "a flush without the lease token is refused",
        LUA + "flush.lua",
        "if f[1] ~= lease_token then",
        "if not f[1] then",
        ATTEMPTS + "test_a_worker_that_lost_its_lease_can_do_nothing_any_more",
    ),
    Mutant(
        "a release without the lease token is refused",
        LUA + "release.lua",
        "job.place == 'leases' and job.lease_token == lease_token",
        "job.place == 'leases'",
        ATTEMPTS + "test_a_worker_that_lost_its_lease_can_do_nothing_any_more",
    ),
    Mutant(
        "nothing is appended after a gap in the log",
        LUA + "flush.lua",
        "if length < base then return length, true end",
        "",
        MACHINE,
    ),
    Mutant(
        "entries sent twice are logged once",
        LUA + "flush.lua",
        "for i = first + length - base, last do",
        "for i = first, last do",
        DOUBLED,
    ),
    Mutant(
        "entries that were appended in vain are taken back",
        LUA + "flush.lua",
        "  redis.call('LTRIM', key('log', id), 0, -1 - count)\n",
        "",
        MACHINE,
    ),
    Mutant(
        "a flush renews the lease",
        LUA + "flush.lua",
        "  if renew then\n",
        "  if false then\n",
        FLUSHER + "test_leases_are_renewed_without_new_tokens",
    ),
    Mutant(
        "a flush brings the cancel",
        LUA + "flush.lua",
        "if f[4] then return 'cancel', length end",
        "",
        FLUSHER + "test_cancel_frees_the_slots_for_the_next_job",
    ),
    Mutant(
        "a flush brings the time-out",
        LUA + "flush.lua",
        "tonumber(f[5]) <= time then return 'timeout'",
        "false then return 'timeout'",
        FLUSHER + "test_timeout_keeps_partial_output",
    ),
    Mutant(
        "a token clears the count of deaths",
        LUA + "flush.lua",
        "'progress', 1, 'fails', 0)",
        "'progress', 1)",
        ATTEMPTS + "test_a_token_clears_the_count_of_deaths",
    ),
    Mutant(
        "only an offered job is claimed",
        LUA + "claim.lua",
        "if job.place ~= 'offered' or",
        "if job.place == 'ended' or",
        MACHINE,
    ),
    Mutant(
        "a late message brings no job to another worker",
        LUA + "claim.lua",
        " or job.worker ~= worker then",
        " then",
        POOLS + "test_a_late_message_brings_no_job_to_another_worker",
    ),
    Mutant(
        "offers of a worker that is gone go to others",
        LUA + "reap.lua",
        " or not has_takers_elsewhere(job) then",
        " or true then",
        POOLS + "test_offers_of_a_worker_that_is_gone_go_to_others",
    ),
    Mutant(
        "a job too wide for a worker waits for another",
        LUA + "shared/dispatch.lua",
        "class.width <= worker.slots",
        "true",
        LINE + "test_a_job_that_no_worker_can_hold_blocks_no_other_and_says_why",
    ),
    Mutant(
        "a worker that shrinks is offered jobs that fit",
        LUA + "heartbeat.lua",
        "then withdraw_offers(engine_pool, worker) end",
        "then end",
        LINE + "test_a_job_that_no_worker_can_hold_blocks_no_other_and_says_why",
    ),
    Mutant(
        "slots of several workers do not add up",
        LUA + "shared/dispatch.lua",
        "local fits = head and head.needs <= freest.free",
        "local fits = head",
        LINE + "test_free_slots_of_several_workers_do_not_add_up",
    ),
    Mutant(
        "other workers take the jobs that come after a wide one",
        LUA + "shared/dispatch.lua",
        "      if head and freest.free > 0 then passed[head.line] = (passed[head.line] or 0) + 1 end\n",
        "",
        LINE + "test_other_wide_workers_take_what_comes_after_a_wide_job",
    ),
    Mutant(
        "a dead worker's jobs continue at once",
        LUA + "reap.lua",
        "if believed and is_settled then watch_lifelines(model, engine_pool, time, dead) end",
        "",
        LIFELINES + "test_a_dead_workers_jobs_continue_at_once",
    ),
    Mutant(
        "a caller that comes earlier takes no turn at the lifelines",
        LUA + "reap.lua",
        "if turn < next_due then",
        "if true then",
        LIFELINES + "test_a_caller_that_comes_earlier_takes_no_turn",
    ),
    Mutant(
        "settings that are not the workers' are not believed",
        LUA + "shared/accepting.lua",
        "if call.is_own_model and (call.trusts_settings or nobody_announced) then",
        "if call.is_own_model then",
        "tests/transitions/test_submits.py"
        "::test_settings_that_are_not_the_workers_are_believed_until_a_worker_announces_itself",
    ),
    Mutant(
        "a lifeline that was never seen is not missed",
        LUA + "shared/lifelines.lua",
        "elseif redis.call('SISMEMBER', PREFIX .. 'lifelines_seen', lifeline) == 1 then",
        "else",
        LIFELINES + "test_a_lifeline_that_was_never_seen_is_not_missed",
    ),
    Mutant(
        "a flush shows that its worker lives",
        LUA + "flush.lua",
        "if living then show_life(living) end",
        "",
        LIFELINES + "test_a_worker_that_writes_is_not_taken_for_dead",
    ),
    Mutant(
        "a worker that writes is not taken for dead",
        LUA + "shared/lifelines.lua",
        "      since = math.max(since, last_write)\n",
        "",
        LIFELINES + "test_a_worker_that_writes_is_not_taken_for_dead",
    ),
    Mutant(
        "a restarted Redis takes no worker for dead",
        LUA + "shared/settling.lua",
        "    redis.call('DEL', PREFIX .. 'lifelines_seen') -- All connections are new.\n",
        "",
        LIFELINES + "test_a_restarted_redis_takes_no_worker_for_dead",
    ),
    Mutant(
        "a repeated claim is one claim",
        LUA + "claim.lua",
        "if not (job.place == 'leases' and job.lease_token == lease_token) then",
        "if true then",
        DOUBLED,
    ),
    Mutant(
        "a claim waits for free slots",
        LUA + "claim.lua",
        "if job.n > free_slots or",
        "if",
        LINE + "test_a_claim_takes_no_more_slots_than_are_free",
    ),
    Mutant(
        "a suspect runs alone",
        LUA + "claim.lua",
        "(job.is_alone and held_jobs > 0)",
        "false",
        ATTEMPTS + "test_a_job_that_may_have_killed_two_workers_runs_alone",
    ),
    Mutant(
        "a suspect is offered to an idle worker",
        LUA + "shared/dispatch.lua",
        "head.needs = head.is_alone and worker.slots or head.class.width",
        "head.needs = head.class.width",
        ATTEMPTS + "test_a_suspect_waits_for_an_idle_worker_and_runs_there_alone",
    ),
    Mutant(
        "four deaths without a token are poison",
        LUA + "reap.lua",
        "fails >= MAX_FAILS or attempts >= MAX_ATTEMPTS",
        "attempts >= MAX_ATTEMPTS",
        ATTEMPTS + "test_the_fourth_death_without_a_token_is_poison",
    ),
    Mutant(
        "nobody claims before a restarted Redis has settled",
        LUA + "claim.lua",
        "if is_settling(time) then",
        "if false then",
        ROLLBACK + "test_nobody_claims_until_a_restarted_redis_has_settled",
    ),
    Mutant(
        "nothing is ready before a restarted Redis has settled",
        LUA + "readiness.lua",
        "if time < settled_at(time) then return answer('settling') end",
        "",
        READINESS + "test_nothing_is_ready_until_a_restarted_redis_has_settled",
    ),
    Mutant(
        "a job that another worker claimed is not taken back",
        LUA + "take_back.lua",
        "if #known >= #claimed_log then return answer('gone') end",
        "",
        ROLLBACK + "test_a_job_that_another_worker_has_claimed_is_not_taken_back",
    ),
    Mutant(
        "no text is appended to a different one",
        LUA + "take_back.lua",
        "if entry ~= claimed_log[i] then return answer('gone') end",
        "",
        ROLLBACK + "test_a_job_with_another_text_is_not_taken_back",
    ),
    Mutant(
        "a gap in Redis' time costs no lease",
        LUA + "reap.lua",
        "local believed = time >= last and time - last <= longest_gap",
        "local believed = true",
        ATTEMPTS + "test_no_lease_expires_across_a_gap_in_time",
    ),
    Mutant(
        "an offer that nobody claims is sent again",
        LUA + "reap.lua",
        "move_on(key('offered', engine_pool), engine_pool, resend_offer)",
        "",
        LINE + "test_an_offer_that_nobody_claims_is_sent_again",
    ),
    Mutant(
        "the reaper ends waiting jobs at their deadline",
        LUA + "reap.lua",
        "move_on(PREFIX .. 'deadlines', nil, reap_deadline)\n",
        "",
        ATTEMPTS + "test_expires_in_ends_a_job_that_waits",
    ),
    Mutant(
        "a job that comes back keeps its place in line",
        LUA + "shared/places.lua",
        "  enter_line(job, id)\n  redis.call('HDEL'",
        "  job.score = precise(time)\n  enter_line(job, id)\n  redis.call('HDEL'",
        ATTEMPTS + "test_a_job_whose_worker_died_goes_to_the_front_and_stays_in_progress",
    ),
    Mutant(
        "no job overtakes a wide job",
        LUA + "shared/dispatch.lua",
        "      freest.is_done = true -- For this call.\n",
        "      freest.free = head and freest.free - 1 or 0\n      freest.is_done = freest.free <= 0\n",
        LINE + "test_nobody_overtakes_a_wide_job_that_waits_for_slots",
    ),
    Mutant(
        "a repeated submit is one job",
        LUA + "submit.lua",
        "if known_since then return answer('created', { ids = ids, created_at = known_since }) end\n",
        "",
        DOUBLED,
    ),
    Mutant(
        "an idempotency key leads to the same job",
        LUA + "submit.lua",
        "if earlier[1] then return answer('exists', { ids = earlier[2] }) end",
        "",
        SUBMITS + "test_an_idempotency_key_leads_to_the_same_job",
    ),
    Mutant(
        "a full line refuses jobs",
        LUA + "shared/accepting.lua",
        "if waiting_jobs(call.model) + #call.jobs > call.max_queued then",
        "if false then",
        SUBMITS + "test_a_full_line_says_when_to_come_back",
    ),
    Mutant(
        "several jobs are accepted together or not at all",
        LUA + "shared/accepting.lua",
        "if waiting_jobs(call.model) + #call.jobs > call.max_queued then",
        "if waiting_jobs(call.model) >= call.max_queued then",
        SUBMITS + "test_several_jobs_are_accepted_together_or_not_at_all",
    ),
    Mutant(
        "marks that are special tokens need a worker that shows them",
        LUA + "shared/accepting.lua",
        "math.max(job.version, cjson.decode(marks).version)",
        "job.version",
        REASONING + "test_marks_that_are_special_tokens_need_a_worker_that_shows_them",
    ),
    Mutant(
        "only workers that log parts get jobs that need them",
        LUA + "shared/accepting.lua",
        "math.max(job.version, DIVIDED_SINCE_VERSION)",
        "job.version",
        "tests/transitions/test_divided_models.py::test_it_takes_a_worker_that_logs_parts",
    ),
    Mutant(
        "a worker that takes over knows which parts are logged",
        "worker/choice_run.py",
        "divider.push(logged_text)",
        "logged_text",
        "tests/engine/test_divided_outputs.py::test_the_next_attempt_logs_the_parts_that_are_missing",
    ),
    Mutant(
        "a key outlives the first of its jobs",
        LUA + "shared/lifecycle.lua",
        "if redis.call('HINCRBY', idempotency, 'left', -1) <= 0 then",
        "if true then",
        SUBMITS + "test_a_key_leads_to_all_jobs_of_its_call_while_one_of_them_is_there",
    ),
    Mutant(
        "no job is charged for more than the model's length",
        LUA + "shared/accepting.lua",
        "math.min(job.max_tokens, length)",
        "job.max_tokens",
        SUBMITS + "test_a_job_is_not_charged_for_more_than_the_models_length",
    ),
    Mutant(
        "an owner gets back what a job did not use",
        LUA + "shared/lifecycle.lua",
        "math.max(0, job.cost - used)",
        "0",
        SUBMITS + "test_an_owner_gets_back_what_a_job_did_not_use",
    ),
    Mutant(
        "an owner's low jobs do not delay its other jobs",
        LUA + "shared/accepting.lua",
        "local tag = low and finish or higher",
        "local tag = finish",
        LINE + "test_an_owners_low_jobs_do_not_delay_its_other_jobs",
    ),
    Mutant(
        "an owner's low jobs come after one another",
        LUA + "shared/accepting.lua",
        "local tag = low and finish or higher",
        "local tag = higher",
        LINE + "test_low_jobs_of_an_owner_take_turns_with_those_of_others",
    ),
    Mutant(
        "an owner has a share of the memory",
        LUA + "shared/records.lua",
        "if most_bytes > 0 and own_bytes + bytes > most_bytes then",
        "if false then",
        SUBMITS + "test_an_owners_jobs_take_no_more_than_their_share_of_the_memory",
    ),
    Mutant(
        "a job waits for a worker that understands it",
        LUA + "shared/dispatch.lua",
        "\n    and class.version <= worker.version\n",
        "\n",
        "tests/transitions/test_versions.py::test_a_job_waits_for_a_worker_that_understands_it",
    ),
    Mutant(
        "a prompt that hangs its tokenizer ends the process",
        "worker/flusher.py",
        "            self._watch_preparer()\n",
        "",
        "tests/reliability/test_workers.py::test_a_prompt_that_hangs_its_tokenizer_fails_and_the_others_go_on",
    ),
    Mutant(
        "submits stop before Redis is full",
        LUA + "shared/records.lua",
        "if redis.call('EXISTS', PREFIX .. 'nearly_full') == 1",
        "if false",
        SUBMITS + "test_a_redis_that_is_nearly_full_takes_no_jobs_but_lets_running_ones_end",
    ),
    Mutant(
        "a running job is cancelled by its worker",
        LUA + "cancel.lua",
        "if job.place == 'leases' then",
        "if false then",
        ATTEMPTS + "test_a_running_job_is_cancelled_by_its_worker",
    ),
    Mutant(
        "only an ended job's log is packed",
        LUA + "pack.lua",
        "if not job or job.place ~= 'ended' then return answer('not_packed') end",
        "if not job then return answer('not_packed') end",
        MACHINE,
    ),
    Mutant(
        "a log that was packed is not packed again",
        LUA + "pack.lua",
        "redis.call('HEXISTS', record, 'packed_log') == 0 and ",
        "",
        MACHINE,
    ),
    Mutant(
        "a low job takes no slots of another one",
        LUA + "shared/dispatch.lua",
        "  if head.is_low then return nil end\n",
        "",
        PREEMPTION + "test_a_low_job_that_comes_back_takes_no_slot_of_a_later_low_one",
    ),
    Mutant(
        "a low job whose turn has come keeps its slots",
        LUA + "shared/preemption.lua",
        "if not comes_before(head, { id = id, score = tonumber(f[5]) }) then return nil end",
        "",
        PREEMPTION + "test_a_job_whose_turn_has_come_keeps_its_slot",
    ),
    Mutant(
        "a job is asked for its slots only after a token",
        LUA + "shared/preemption.lua",
        "f[6] ~= '1' or ",
        "",
        PREEMPTION + "test_a_job_is_asked_only_after_it_has_written_a_token",
    ),
    Mutant(
        "a job is preempted a bounded number of times",
        LUA + "shared/preemption.lua",
        " or preemptions >= MAX_PREEMPTIONS",
        "",
        PREEMPTED + "test_a_job_is_preempted_a_bounded_number_of_times",
    ),
    Mutant(
        "a preemption is counted",
        LUA + "release.lua",
        "redis.call('HINCRBY', key('job', id), 'preemptions', 1)",
        "",
        PREEMPTED + "test_a_job_is_preempted_a_bounded_number_of_times",
    ),
    Mutant(
        "preemptions do not make a job poison",
        LUA + "reap.lua",
        "'attempts')) - preemptions",
        "'attempts'))",
        PREEMPTED + "test_preemptions_do_not_make_a_job_poison",
    ),
    Mutant(
        "a job that runs alone keeps its slots",
        LUA + "shared/preemption.lua",
        " or tonumber(f[3]) ~= slots",
        "",
        PREEMPTION + "test_a_job_that_runs_alone_keeps_its_slots",
    ),
    Mutant(
        "no job gives slots to one that has to run alone",
        LUA + "shared/dispatch.lua",
        "  if head.is_alone then return nil end\n",
        "",
        PREEMPTION + "test_nobody_is_asked_for_a_job_that_has_to_run_alone",
    ),
    Mutant(
        "no job is asked twice",
        LUA + "shared/preemption.lua",
        "f[9] == lease_token or ",
        "",
        PREEMPTION + "test_no_more_jobs_are_asked_than_slots_are_needed",
    ),
    Mutant(
        "slots that are being freed count",
        LUA + "shared/preemption.lua",
        "worker.room = worker.room + (tonumber(f[3]) or 0)",
        "",
        PREEMPTION + "test_no_more_jobs_are_asked_than_slots_are_needed",
    ),
    Mutant(
        "no job is asked that could be left out",
        LUA + "shared/preemption.lua",
        "if freed - chosen[i].slots >= needed then",
        "if false then",
        PREEMPTION + "test_none_of_the_jobs_that_are_asked_could_be_left_out",
    ),
    Mutant(
        "slots that are being freed are kept for the job that waits for them",
        LUA + "shared/dispatch.lua",
        "      yielder.free = math.min(yielder.free, yielder.room)\n",
        "",
        PREEMPTION + "test_slots_that_are_being_freed_are_kept_for_the_job_that_waits_for_them",
    ),
    Mutant(
        "no job takes slots that are for another worker's first job",
        LUA + "shared/dispatch.lua",
        "if next_ids[view] == head.id then",
        "if true then",
        PREEMPTION + "test_no_job_takes_slots_that_are_for_another_workers_first_job",
    ),
    Mutant(
        "nobody is asked for a job that is not next",
        LUA + "shared/dispatch.lua",
        "if head and freest.free > 0 then passed",
        "if head then passed",
        PREEMPTION + "test_nobody_is_asked_for_a_job_that_is_not_next",
    ),
    Mutant(
        "a request for slots ends with the attempt",
        LUA + "flush.lua",
        "if f[6] == lease_token then",
        "if f[6] then",
        PREEMPTED + "test_a_request_ends_with_the_attempt",
    ),
    Mutant(
        "slots of a job that the earlier release moved on are not waited for",
        LUA + "shared/preemption.lua",
        "if f[1] ~= marked[i + 1] then",
        "if false then",
        PREEMPTION + "test_a_job_that_the_earlier_release_took_over_is_not_waited_for",
    ),
    Mutant(
        "running low jobs are listed until their leases end",
        LUA + "shared/places.lua",
        "  if job.place == 'leases' and job.is_low then forget_running_low(id, job.engine_pool) end\n",
        "",
        MACHINE,
    ),
    Mutant(
        "a worker gives back the jobs that are asked for their slots",
        "worker/writes.py",
        "if answer.status is WriteStatus.PREEMPT and not has_news:",
        "if False:",
        FLUSHER + "test_low_jobs_give_their_slots_to_a_wide_job_and_continue",
    ),
    Mutant(
        "a worker drops a job that it has lost",
        "worker/writes.py",
        'dropping it", run.job_id)\n                self._held.drop(job, None)\n',
        'dropping it", run.job_id)\n',
        FLUSHER + "test_a_job_that_moved_on_is_dropped",
    ),
    Mutant(
        "a worker sends again what Redis lost",
        "worker/writes.py",
        'sending them again", run.job_id)\n                run.flushed_up_to(answer.log_length)\n',
        'sending them again", run.job_id)\n',
        FLUSHER_FAILURES + "test_entries_that_redis_lost_are_written_again",
    ),
    Mutant(
        "a worker outlives a Redis that it cannot reach",
        "worker/flusher.py",
        "except RedisError as error:\n            if is_away(error):\n                logger.warning",
        "except ZeroDivisionError as error:\n            if is_away(error):\n                logger.warning",
        FLUSHER_FAILURES + "test_an_outage_of_redis_costs_time_and_nothing_else",
    ),
    Mutant(
        "a record that makes the script fail is dropped alone",
        "worker/writes.py",
        "            answers = self._flush_one_by_one(jobs, writes, renew=renew)\n",
        "            raise\n",
        FLUSHER_FAILURES + "test_a_record_that_makes_the_script_fail_is_dropped_alone",
    ),
    Mutant(
        "a damaged job fails alone",
        LUA + "reap.lua",
        "local is_done = job and pcall(move, job, id)",
        "local is_done = job and (move(job, id) or true)",
        "tests/transitions/test_dangling.py::test_a_damaged_log",
    ),
    Mutant(
        "the watchdog ends a worker whose engine hangs",
        "worker/watchdog.py",
        "elif stillness.look() > one.timeout_seconds:",
        "elif False:",
        "tests/integration/test_celery_workers.py::test_an_engine_that_hangs_is_ended",
    ),
    Mutant(
        "a worker to which Celery delivers nothing ends",
        "worker/flusher.py",
        "elif self._delivery.is_overdue():",
        "elif False:",
        "tests/integration/test_delivery.py::test_a_worker_without_deliveries_gives_its_jobs_back_and_ends",
    ),
    Mutant(
        "probes are forgotten while Redis cannot be reached",
        "worker/delivery_probe.py",
        "            self.forget_probes()\n",
        "            pass\n",
        "tests/integration/test_delivery.py::test_the_time_while_redis_cannot_be_reached_does_not_count",
    ),
    Mutant(
        "a consumer that loses Redis while it starts tries again",
        "worker/celery_consumer.py",
        "(*self.connection_errors, OperationalError)",
        "(*self.connection_errors,)",
        "tests/integration/test_delivery.py::test_a_consumer_that_loses_redis_while_it_starts_tries_again",
    ),
    Mutant(
        "a full worker is not taken for one without deliveries",
        "worker/flusher.py",
        "if len(self._held) + len(self._claims) >= self._max_num_seqs:",
        "if False:",
        "tests/integration/test_delivery.py::test_a_full_worker_is_not_taken_for_one_without_deliveries",
    ),
    Mutant(
        "a reader that misses a message reads the log",
        "web/relay/reader.py",
        "if batch.first_seq > self._last + 1:",
        "if False:",
        STREAM_FAILURES + "test_entries_whose_publish_was_lost_are_read_from_the_log",
    ),
    Mutant(
        "a batch after a missing one is not pushed to the client",
        "web/relay/reader.py",
        "batch.first_seq != self._last + 1 or ",
        "",
        STREAM_FAILURES + "test_entries_whose_publish_was_lost_are_read_from_the_log",
    ),
    Mutant(
        "a batch is not pushed before those that wait in the queue",
        "web/relay/subscriptions.py",
        "        self._is_waiting = False\n        self._news.set()",
        "        self._news.set()",
        HUB + "test_a_batch_waits_for_those_before_it",
    ),
    Mutant(
        "a reader skips events that it has",
        "web/relay/reader.py",
        "batch.events[self._last + 1 - batch.first_seq :]",
        "batch.events",
        STREAM + "test_entries_written_while_readers_come_reach_each_of_them_once",
    ),
    Mutant(
        "a reader reads the log once it is subscribed",
        "web/relay/hub.py",
        "            for subscription in subscriptions:\n                subscription.must_read_log()",
        "            pass",
        HUB + "test_a_confirmed_subscription_says_read_the_log",
    ),
    Mutant(
        "a reader with a full queue reads the log",
        "web/relay/subscriptions.py",
        "            self._batches = []\n            self._must_read_log = True\n",
        "            self._batches = []\n",
        HUB + "test_a_reader_with_a_full_queue_must_read_the_log",
    ),
    Mutant(
        "a piece of a file is appended once",
        LUA + "append_upload.lua",
        "if file and file.bytes == at + #data then return answer('appended') end\n",
        "",
        FILES + "test_a_file_is_stored_piece_by_piece[RepeatedScripts]",
    ),
    Mutant(
        "a file in use is not deleted",
        LUA + "delete_file.lua",
        "if file.status == 'open' or file.holders > 0 then return answer('in_use') end",
        "",
        BATCHES + "test_a_batch_runs_from_its_file_to_its_end[Scripts]",
    ),
    Mutant(
        "lines of a batch become jobs once",
        LUA + "feed_batch.lua",
        "if batch.offset ~= offset then return answer('moved') end",
        "",
        BATCHES + "test_lines_that_were_taken_become_no_jobs_again[Scripts]",
    ),
    Mutant(
        "lines of a batch are skipped once",
        LUA + "skip_lines.lua",
        "if batch.offset ~= offset then return answer('moved') end",
        "",
        BATCHES + "test_lines_that_were_taken_become_no_jobs_again[Scripts]",
    ),
    Mutant(
        "a line of a batch has one answer",
        LUA + "answer_lines.lua",
        "if redis.call('HDEL', key('batch_lines', id), line.number) == 1 then",
        "if redis.call('HDEL', key('batch_lines', id), line.number) >= 0 then",
        BATCHES + "test_an_answered_line_gets_no_other_answer[Scripts]",
    ),
    Mutant(
        "an answer removes only ended jobs",
        LUA + "answer_lines.lua",
        "if job and job.place == 'ended' then purge(job, job_id) end",
        "if job then purge(job, job_id) end",
        BATCHES + "test_an_answer_removes_no_job_that_still_runs[Scripts]",
    ),
    Mutant(
        "a damaged file of a batch is noticed",
        LUA + "answer_lines.lua",
        "if refused then return answer(refused) end\n",
        "",
        BATCHES + "test_answers_are_not_written_to_a_damaged_file[Scripts-content]",
    ),
    Mutant(
        "a batch's file does not grow beyond its limit",
        LUA + "shared/batches.lua",
        "    if file.bytes + added > longest_file then return 'too_long' end\n",
        "",
        BATCHES + "test_a_file_grows_up_to_its_limit[Scripts]",
    ),
    Mutant(
        "a batch does not end without all answers",
        LUA + "end_batch.lua",
        "if counted ~= batch.total then return answer(",
        "if false then return answer(",
        BATCHES + "test_missing_answers_are_noticed_at_the_end[Scripts]",
    ),
    Mutant(
        "a batch that was closed takes no jobs",
        LUA + "feed_batch.lua",
        "if not batch or batch.outcome or batch.status ~= 'in_progress' then",
        "if not batch then",
        BATCHES + "test_a_cancelled_batch_takes_no_more_jobs[Scripts]",
    ),
    Mutant(
        "one process at a time has a batch",
        LUA + "take_batches.lua",
        "redis.call('ZADD', PREFIX .. 'batch_turns', precise(time + turn_seconds), id)",
        "",
        BATCHES + "test_a_turn_is_one_callers_until_it_is_over",
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose guard contains this")
    options = parser.parse_args()
    survivors = 0
    print("| removed guard | file | test that notices |\n|---|---|---|")
    for mutant in MUTANTS:
        if options.only in mutant.guard:
            noticed = mutant.is_noticed()
            survivors += not noticed
            verdict = mutant.test.removeprefix("tests/") if noticed else f"NOBODY, not even {mutant.test}"
            print(f"| {mutant.guard} | {mutant.file} | {verdict} |", flush=True)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
