// Package aliyun talks to Alibaba Cloud: the ECS, VPC and STS APIs, the metadata service, and the credentials for them. It
// is the only package that imports the vendor's SDK, which signs and sends the requests and is fenced for the rest:
//
//   - The SDK rewrites the timeout, proxy and TLS settings of the transport it is given, on every call and without a
//     lock. Each attempt gets an SDK client of its own, around an http.RoundTripper the SDK does not recognise.
//   - It knows no context. The round tripper ends the exchange when the caller's context ends.
//   - It panics on some error bodies. Answers are read from the round tripper, and panics are recovered.
//   - It retries at once, without waiting. Its retries are off; those here are bounded, jittered, within the budget of
//     their action, and repeat a change only when the change cannot happen twice.
//   - Its default scheme is HTTP. Requests here use HTTPS unless the endpoint is on loopback, or is allowed not to.
//   - Its default credentials remember the provider they tried last, even one that failed. Here one source is chosen at the
//     start, and what it has is looked at for every request.
//
// Errors wrap one of the sentinels of errors.go, which is what callers decide by, and an *APIError where the cloud
// answered.
package aliyun
