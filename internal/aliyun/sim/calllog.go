package sim

import (
	"slices"
	"strings"
	"time"
)

// A Call is a request to the API and what became of it. Requests that are not understood or not signed are in the log,
// too, with the code that says so.
type Call struct {
	Seq     int       `json:"seq"` // in the order in which calls ended; zero while it is under way
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Action  string    `json:"action"`
	Version string    `json:"version"`
	// Number counts the authenticated calls of the action.
	Number int    `json:"number"`
	Key    string `json:"key"` // ID of the access key
	// Params are those of the action, without tokens and passwords.
	Params    map[string]string `json:"params"`
	RequestID string            `json:"requestID"`
	Status    int               `json:"status"`
	Code      string            `json:"code,omitempty"` // of an error
	Fault     string            `json:"fault,omitempty"`
	// Lost says that the call was carried out and the connection cut.
	Lost bool `json:"lost,omitempty"`
}

// secretParams are left out of the log.
var secretParams = []string{"Signature", "SecurityToken", "OIDCToken", "UserData", "Password"}

// A callLog keeps the last calls. Cloud.mu guards it.
type callLog struct {
	most  int
	seq   int
	calls []Call
}

func (l *callLog) add(call Call) {
	l.seq++
	call.Seq = l.seq
	if len(l.calls) >= l.most {
		l.calls = slices.Clone(l.calls[len(l.calls)-l.most+1+l.most/10:]) // room for many at once
	}
	l.calls = append(l.calls, call)
}

// CallLog returns the calls that ended after the one with the number, oldest first; 0: all that are kept.
func (c *Cloud) CallLog(after int) []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, _ := slices.BinarySearchFunc(c.log.calls, after+1, func(call Call, seq int) int { return call.Seq - seq })
	return slices.Clone(c.log.calls[i:])
}

// loggable are the parameters of the action that may be shown.
func (in input) loggable() map[string]string {
	shown := map[string]string{}
	for k, v := range in {
		if !slices.Contains(commonParams, k) && !slices.ContainsFunc(secretParams, func(s string) bool { return strings.HasPrefix(k, s) }) {
			shown[k] = v
		}
	}
	return shown
}
