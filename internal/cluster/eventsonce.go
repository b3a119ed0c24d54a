package cluster

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/flowcontrol"
)

const (
	// onceBurst and onceEvery limit what one node writes of what every node sees: so many, and then one at a time.
	onceBurst = 25
	onceEvery = 12 * time.Second
	// onceRetry is the pause before an event is tried again that found no server, for onceTries times.
	onceRetry = 10 * time.Second
	onceTries = 12
)

// WarnOnce is Warn for what every node sees alike and says in the same words: whichever is first writes it, for the event's
// name is made of what it says. An event lives for an hour, and so long nobody says the same again.
func (e *Events) WarnOnce(about Object, reason, message string) {
	e.enqueue(e.once, about, reason, message)
}

// writeOnce writes what WarnOnce took until ctx ends.
func (e *Events) writeOnce(ctx context.Context) {
	limit := flowcontrol.NewTokenBucketRateLimiter(float32(time.Second)/float32(onceEvery), onceBurst)
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-e.once:
			if limit.Wait(ctx) == nil {
				e.create(ctx, w)
			}
		}
	}
}

// create writes an event unless it is there. Only for a server that cannot be reached it tries again, as client-go does.
func (e *Events) create(ctx context.Context, w warning) {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: onceName(w), Namespace: w.about.Namespace},
		InvolvedObject: w.about, Reason: w.reason, Message: w.message, Type: corev1.EventTypeWarning, Count: 1,
		Source: corev1.EventSource{Component: e.component}, ReportingController: e.component,
		FirstTimestamp: now, LastTimestamp: now,
	}
	if event.Namespace == "" {
		event.Namespace = metav1.NamespaceDefault
	}
	for range onceTries {
		_, err := e.client.CoreV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{})
		var answer *apierrors.StatusError
		switch {
		case err == nil, apierrors.IsAlreadyExists(err):
			return
		case errors.As(err, &answer):
			e.log.Warn("event refused", "reason", w.reason, "message", w.message, "err", err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(onceRetry):
		}
	}
	e.log.Warn("event dropped, the API cannot be reached", "reason", w.reason, "message", w.message)
}

// onceName is the same on every node that says the same, and a name that the API takes.
func onceName(w warning) string {
	sum := fnv.New64a()
	fmt.Fprintf(sum, "%s\x00%s\x00%s\x00%s\x00%s", w.about.Kind, w.about.Name, w.about.UID, w.reason, w.message)
	name := w.about.Name
	name = strings.TrimRight(name[:min(len(name), 200)], ".-")
	return fmt.Sprintf("%s.%016x", name, sum.Sum64())
}
