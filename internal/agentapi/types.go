// Package agentapi is the agent's local API: JSON over HTTP on a unix socket, for the CNI executable and for the
// operator's verbs. It has no dependency beyond the standard library: nearpath-cni starts once per pod and every
// import costs start-up time.
package agentapi

import "encoding/json"

// DefaultSocket is where the agent listens unless configured otherwise.
const DefaultSocket = "/run/nearpath/agent.sock"

// A CNIRequest carries one CNI invocation to the agent: the environment of CNI specification 1.1.0, section 2,
// and the network configuration as it came on standard input.
type CNIRequest struct {
	Command     string          `json:"command"` // ADD, DEL, CHECK, STATUS or GC
	ContainerID string          `json:"containerID,omitempty"`
	NetNS       string          `json:"netns,omitempty"`
	IfName      string          `json:"ifName,omitempty"`
	Args        string          `json:"args,omitempty"` // CNI_ARGS, unparsed
	Config      json.RawMessage `json:"config"`
}

// A CNIResponse holds either a result or an error. Result is a CNI result of version 1.1.0 for ADD and absent
// for every other verb; the executable converts it to the version the runtime asked for.
type CNIResponse struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  *CNIError       `json:"error,omitempty"`
}

// A CNIError is the error object of CNI specification 1.1.0, section 5.
type CNIError struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details,omitempty"`
}

func (e *CNIError) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}
