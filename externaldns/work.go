package externaldns

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun"
)

// A tokenKey is one wish: as long as nobody knows whether it came true, it is repeated under one token.
type tokenKey struct {
	verb  Verb
	place Place
	id    int64
	value valueKey
	mark  string
}

func wish(op Op) tokenKey { return tokenKey{op.Verb, op.Place, op.Have.ID, keyOf(op), op.Remark} }

// An outcome is the answer to a call.
type outcome struct {
	id       int64               // of an added record
	found    []aliyun.ZoneRecord // of a search
	started  time.Time
	repeated bool // under a token that had been used
	err      error
}

// job makes a call and draws the consequences. It runs under the lock until the call itself.
func (s *Syncer) job(it *item, c call) job {
	token, repeated := "", false
	if c.class != classFind {
		if token, repeated = s.tokens[wish(c.op)]; !repeated {
			token = newToken()
			s.tokens[wish(c.op)] = token
		}
		s.watch.zone(c.op.ZoneID).begin(c.op.Place)
	}
	return func(ctx context.Context) {
		out := outcome{started: time.Now(), repeated: repeated}
		limited, cancel := context.WithTimeout(ctx, callTimeout)
		s.log.Debug("call", "op", c.String())
		if c.class == classFind {
			out.found, out.err = s.read.FindRecords(limited, c.place.ZoneID, c.place.RR)
		} else {
			out.id, out.err = apply(limited, s.write, c.op, token)
		}
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		defer s.kick()
		s.finish(it, c, out, time.Now())
	}
}

// newToken makes a ClientToken: 26 characters, of which the API allows 64.
func newToken() string { return rand.Text() }

// apply makes the one call of an Op.
func apply(ctx context.Context, w Writer, op Op, token string) (id int64, err error) {
	switch op.Verb {
	case Add:
		return w.AddRecord(ctx, aliyun.AddRecord{
			ZoneID: op.ZoneID, RR: op.RR, Type: op.Type, Value: op.Value, TTL: op.TTL, Remark: op.Remark, ClientToken: token,
		})
	case Update:
		return op.Have.ID, w.UpdateRecord(ctx, aliyun.UpdateRecord{
			ID: op.Have.ID, RR: op.RR, Type: op.Type, Value: op.Value, TTL: op.TTL, ClientToken: token,
		})
	case Remark:
		return op.Have.ID, w.SetRemark(ctx, op.Have.ID, op.Remark, token)
	default:
		return op.Have.ID, w.DeleteRecord(ctx, op.Have.ID, token)
	}
}

// errDryRun is why nothing is written in a dry run.
var errDryRun = errors.New("dry run")

// AddRecord does nothing.
func (dryRun) AddRecord(context.Context, aliyun.AddRecord) (int64, error) { return 0, errDryRun }

// UpdateRecord does nothing.
func (dryRun) UpdateRecord(context.Context, aliyun.UpdateRecord) error { return errDryRun }

// SetRemark does nothing.
func (dryRun) SetRemark(context.Context, int64, string, string) error { return errDryRun }

// DeleteRecord does nothing.
func (dryRun) DeleteRecord(context.Context, int64, string) error { return errDryRun }
