// Logs each request and everything that the parser refuses, a line each, and answers with the target.
const http = require('http')

const log = (line) => process.stdout.write(line.replace(/[^\x20-\x7e]/g, '?') + '\n')

const server = http.createServer({ insecureHTTPParser: true, keepAliveTimeout: 3600e3 }, (request, response) => {
  log(`${request.method} ${request.url} HTTP/${request.httpVersion}`)
  request.on('error', () => {})
  request.resume()
  request.on('end', () => response.end(request.url))
})
server.requestTimeout = 0
server.headersTimeout = 0
server.on('connect', (request, socket) => { log(`CONNECT ${request.url} HTTP/1.1`); socket.destroy() })
server.on('clientError', (error, socket) => {
  // A connection that ends in the middle of a body is no request. A request that is refused for its method was one.
  const left = ['ECONNRESET', 'EPIPE', 'HPE_INVALID_EOF_STATE', 'HPE_CLOSED_CONNECTION']
  const line = String(error.rawPacket).split('\r\n', 1)[0]
  if (!left.includes(error.code)) log(error.code === 'HPE_INVALID_METHOD' ? line : `${error.code}: ${line}`)
  socket.destroy()
})
server.listen(Number(process.argv[2]), '127.0.0.1')
