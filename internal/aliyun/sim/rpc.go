package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"time"
)

// Versions of the APIs.
const (
	ecsVersion = "2014-05-26"
	vpcVersion = "2016-04-28"
)

// maxBody bounds a form.
const maxBody = 1 << 20

// object is a JSON object of an answer.
type object = map[string]any

type actionKey struct{ version, name string }

// An action of the API. Params are the names it accepts beside the common ones; ".N" stands for a list index.
type action struct {
	params []string
	delay  func(Delays) time.Duration // nil: none
	serve  func(*Cloud, input) (object, error)
}

func actions() map[actionKey]action {
	return map[actionKey]action{
		{ecsVersion, "DescribeInstances"}:     {params: describeInstancesParams, serve: (*Cloud).describeInstances},
		{ecsVersion, "DescribeInstanceTypes"}: {params: describeInstanceTypesParams, serve: (*Cloud).describeInstanceTypes},
		{vpcVersion, "DescribeVSwitches"}:     {params: describeVSwitchesParams, serve: (*Cloud).describeVSwitches},

		{vpcVersion, "DescribeVpcs"}:              {params: describeVPCsParams, serve: (*Cloud).describeVPCs},
		{vpcVersion, "DescribeVSwitchAttributes"}: {params: describeVSwitchAttributesParams, serve: (*Cloud).describeVSwitchAttributes},
		{vpcVersion, "DescribeRouteTableList"}:    {params: describeRouteTableListParams, serve: (*Cloud).describeRouteTableList},
		{vpcVersion, "DescribeRouteEntryList"}:    {params: describeRouteEntryListParams, serve: (*Cloud).describeRouteEntryList},
		{vpcVersion, "DescribeNatGateways"}:       {params: describeNATGatewaysParams, serve: (*Cloud).describeNATGateways},
		{vpcVersion, "DescribeSnatTableEntries"}:  {params: describeSNATTableEntriesParams, serve: (*Cloud).describeSNATTableEntries},

		{ecsVersion, "DescribeNetworkInterfaces"}: {params: describeENIsParams, serve: (*Cloud).describeENIs},
		{ecsVersion, "CreateNetworkInterface"}: {
			params: createENIParams, serve: idempotent((*Cloud).createENI),
			delay: func(d Delays) time.Duration { return d.Create },
		},
		{ecsVersion, "AttachNetworkInterface"}: {params: attachENIParams, serve: (*Cloud).attachENI},
		{ecsVersion, "DetachNetworkInterface"}: {params: attachENIParams, serve: (*Cloud).detachENI},
		{ecsVersion, "DeleteNetworkInterface"}: {params: deleteENIParams, serve: (*Cloud).deleteENI},

		{ecsVersion, "AssignPrivateIpAddresses"}: {
			params: assignParams, serve: idempotent((*Cloud).assignIPs),
			delay: func(d Delays) time.Duration { return d.Assign },
		},
		{ecsVersion, "UnassignPrivateIpAddresses"}: {
			params: unassignParams, serve: (*Cloud).unassignIPs,
			delay: func(d Delays) time.Duration { return d.Unassign },
		},
	}
}

func (c *Cloud) serveRPC(w http.ResponseWriter, r *http.Request) {
	id := c.requestID()
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	answer, lost, err := c.handle(r)
	if lost {
		panic(http.ErrAbortHandler) // net/http's way to cut the connection without an answer
	}
	if err == nil {
		answer = maps.Clone(answer) // it may belong to a client token
		answer["RequestId"] = id
		writeJSON(w, http.StatusOK, answer)
		return
	}
	ref, ok := errors.AsType[*refusal](err)
	if !ok {
		c.cfg.Logger.Error("simulated cloud failed", "err", err)
		ref = refuse(codeInternal, "The request processing has failed due to some unknown error.")
	}
	writeJSON(w, ref.status, object{
		"RequestId": id, "HostId": r.Host, "Code": ref.code, "Message": ref.message,
		"Recommend": "https://api.aliyun.com/troubleshoot?q=" + ref.code,
	})
}

// handle checks and serves one request. Lost says that the connection is to be cut instead of answered.
func (c *Cloud) handle(r *http.Request) (answer object, lost bool, err error) {
	in, err := parseInput(r)
	if err != nil {
		return nil, false, err
	}
	if in.text("Version") == stsVersion {
		return c.handleSTS(in)
	}
	if err := c.authenticate(r.Method, in); err != nil {
		return nil, false, err
	}
	name := in.text("Action")
	act, ok := c.actions[actionKey{in.text("Version"), name}]
	if !ok {
		return nil, false, refuse(codeInvalidAction, "The specified API action %q is not found in version %q.", name, in.text("Version"))
	}
	if region := in.text("RegionId"); region != c.cfg.RegionID {
		return nil, false, refuse(codeInvalidRegion, "The specified region %q does not exist.", region)
	}
	if err := in.only(act.params); err != nil {
		return nil, false, err
	}
	fault := c.record(name)
	if fault != nil && fault.Code != "" {
		return nil, false, &refusal{status: fault.HTTPStatus, code: fault.Code, message: fault.Message}
	}
	c.delay(r.Context(), act)
	answer, err = act.serve(c, in)
	return answer, fault != nil && fault.LoseAnswer, err
}

func (c *Cloud) delay(ctx context.Context, act action) {
	if act.delay != nil {
		c.hold(ctx, act.delay(c.cfg.Delays))
	}
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
