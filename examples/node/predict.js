// A modeld client for Node.js: npm's zeromq 6 and plain JSON.
//
//     npm install --no-package-lock
//     node predict.js tcp://127.0.0.1:5555 alpha 0.01 0.02 nan 1.2
//
// Prints "value version generation" and exits 0; 1: the server's error, or a wrong argument; 2: no reply.
// A server with CURVE: MODELD_SERVER_KEY, MODELD_PUBLIC_KEY and MODELD_SECRET_KEY in the environment, in Z85.
"use strict"
const zmq = require("zeromq")

const TIMEOUT_MS = 1000
const TRIES = 3

// One request to one server. The id makes the reply ours: a late one to an older request has another.
async function predict(socket, request) {
  const message = JSON.stringify(request)
  for (let tries = 0; tries < TRIES; tries++) {
    try {
      await socket.send(message) // asking again with the same id is harmless: a prediction has no effect
      for (;;) {
        const [header] = await socket.receive()
        const reply = JSON.parse(header.toString())
        if (reply.id === request.id) return reply
      }
    } catch (error) {
      if (error.code !== "EAGAIN") throw error // EAGAIN: sendTimeout or receiveTimeout is over
    }
  }
  return null
}

async function main([endpoint, model, ...words]) {
  // A missing value is null; JSON has no NaN. Infinities aren't sent: JSON.stringify would make them null too.
  const features = words.map(word => (word.toLowerCase() === "nan" ? null : Number(word)))
  if (!model || !features.length || features.some(value => value !== null && !Number.isFinite(value))) {
    console.error("usage: node predict.js ENDPOINT MODEL FEATURE...")
    return 1
  }
  // Dealer, not Request: that one is stuck after a timeout.
  const socket = new zmq.Dealer({ linger: 0, sendTimeout: TIMEOUT_MS, receiveTimeout: TIMEOUT_MS })
  const { MODELD_SERVER_KEY, MODELD_PUBLIC_KEY, MODELD_SECRET_KEY } = process.env
  if (MODELD_SERVER_KEY) {
    socket.curveServerKey = MODELD_SERVER_KEY
    socket.curvePublicKey = MODELD_PUBLIC_KEY
    socket.curveSecretKey = MODELD_SECRET_KEY
  }
  socket.connect(endpoint)
  try {
    const reply = await predict(socket, { id: "node-1", model_name: model, features })
    if (reply === null) {
      console.error(`no reply from ${endpoint}`)
      return 2
    }
    if (reply.error !== undefined) {
      console.error(`${reply.code}: ${reply.error}`)
      return 1
    }
    console.log(reply.outputs[0].data[0], reply.model_version, reply.parameters.generation)
    return 0
  } finally {
    socket.close()
  }
}

main(process.argv.slice(2)).then(status => { process.exitCode = status })
