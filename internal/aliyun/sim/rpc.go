package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
)

// maxBody bounds a form.
const maxBody = 1 << 20

// object is a JSON object of an answer.
type object = map[string]any

func (c *Cloud) serveRPC(w http.ResponseWriter, r *http.Request) {
	call := &Call{Started: c.cfg.Now(), RequestID: c.requestID()}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	answer, lost, err := c.handle(r, call)
	var ref *refusal
	if err != nil {
		ref = c.refusalOf(err)
		call.Code = ref.code
	}
	call.Lost, call.Status = lost, http.StatusOK
	if ref != nil {
		call.Status = ref.status
	}
	c.finish(*call)
	if lost {
		panic(http.ErrAbortHandler) // net/http's way to cut the connection without an answer
	}
	if ref == nil {
		answer = maps.Clone(answer) // it may belong to a client token
		answer["RequestId"] = call.RequestID
		writeJSON(w, http.StatusOK, answer)
		return
	}
	writeJSON(w, ref.status, object{
		"RequestId": call.RequestID, "HostId": r.Host, "Code": ref.code, "Message": ref.message,
		"Recommend": "https://api.aliyun.com/troubleshoot?q=" + ref.code,
	})
}

func (c *Cloud) refusalOf(err error) *refusal {
	if ref, ok := errors.AsType[*refusal](err); ok {
		return ref
	}
	c.cfg.Logger.Error("simulated cloud failed", "err", err)
	return refuse(codeInternal, "The request processing has failed due to some unknown error.")
}

// finish puts a call into the log.
func (c *Cloud) finish(call Call) {
	call.Ended = c.cfg.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log.add(call)
}

// handle checks and serves one request. Lost says that the connection is to be cut instead of answered.
func (c *Cloud) handle(r *http.Request, call *Call) (answer object, lost bool, err error) {
	in, err := parseInput(r)
	if err != nil {
		return nil, false, err
	}
	call.Action, call.Version, call.Key, call.Params = in.text("Action"), in.text("Version"), in.text("AccessKeyId"), in.loggable()
	if call.Version == stsVersion {
		return c.handleSTS(r.Context(), in, call)
	}
	if err := c.authenticate(r, in); err != nil {
		return nil, false, err
	}
	act, err := c.actionOf(in)
	if err != nil {
		return nil, false, err
	}
	return c.perform(r.Context(), act, in, call)
}

// actionOf finds the action and checks everything about the request that does not depend on the action's meaning.
func (c *Cloud) actionOf(in input) (action, error) {
	name, version := in.text("Action"), in.text("Version")
	act, ok := c.actions[actionKey{version, name}]
	if !ok {
		return action{}, refuse(codeInvalidAction, "The specified API action %q is not found in version %q.", name, version)
	}
	if region := in.text("RegionId"); region != c.cfg.RegionID && (region != "" || !in.signedByHeader()) {
		return action{}, refuse(codeInvalidRegion, "The specified region %q does not exist.", region)
	}
	if !c.cfg.IgnoreUnknown {
		if err := in.only(act.params); err != nil {
			return action{}, err
		}
	}
	return act, c.authorize(in, version, name)
}

// perform serves a checked request, with all that may go wrong on the way.
func (c *Cloud) perform(ctx context.Context, act action, in input, call *Call) (answer object, lost bool, err error) {
	met, number := c.meet(call.Action)
	call.Number = number
	if err := c.throttle(call.Action, call.Key); err != nil {
		return nil, false, err
	}
	var fault Fault
	if met != nil {
		fault, call.Fault = met.fault, met.ID
	}
	if fault.Before != nil {
		fault.Before(*call)
	}
	if !met.hang(ctx, HangBefore) {
		return nil, false, refuse(codeUnavailable, "The client went away, or the service ends.")
	}
	if fault.Code != "" {
		return nil, false, &refusal{status: fault.HTTPStatus, code: fault.Code, message: fault.Message}
	}
	answer, err = c.carryOut(ctx, act, in, call)
	if fault.After != nil {
		fault.After(*call)
	}
	met.hang(ctx, HangAfter)
	return answer, fault.LoseAnswer, err
}

// carryOut lets the latency pass and does what is asked.
func (c *Cloud) carryOut(ctx context.Context, act action, in input, call *Call) (object, error) {
	if act.changes && c.cfg.Conflicts {
		id := in.text("NetworkInterfaceId")
		if !c.begin(id) {
			return nil, refuse(codeConflict, "Another operation on %s is under way.", id)
		}
		defer c.end(id)
	}
	d := c.cfg.Latencies[call.Action].draw(c.event("latency " + call.Action))
	if act.delay != nil {
		d += act.delay(c.cfg.Delays)
	}
	c.hold(ctx, d)
	return act.serve(c, in)
}

// begin marks the ENI as one a call changes; false: it is one already.
func (c *Cloud) begin(eniID string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changing[eniID] {
		return false
	}
	c.changing[eniID] = true
	return true
}

func (c *Cloud) end(eniID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.changing, eniID)
}

func (c *Cloud) requestID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	return fmt.Sprintf("51BD0000-0000-4000-8000-%012X", c.seq)
}

func writeJSON(w http.ResponseWriter, status int, body object) {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	// The client may be gone; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(body)
}
