// What /task/<uuid>/info costs in plain Node.js: the work NodeODM does for it (find the task, build the object, stringify),
// without its framework, which would only make it slower. Arguments: number of tasks. Prints the port.
import http from 'node:http';

const tasks = new Map();
for (let i = 0; i < Number(process.argv[2]); i++) {
  const uuid = `00000000-0000-4000-8000-${String(i).padStart(12, '0')}`;
  tasks.set(uuid, {
    uuid, name: 'Task', dateCreated: Date.now(), processingTime: 1000, status: { code: 40 },
    options: [{ name: 'dsm', value: true }, { name: 'pc-ept', value: true }, { name: 'cog', value: true }, { name: 'gltf', value: true }],
    imagesCount: 2, progress: 100,
  });
}

function info(task) {
  const { uuid, name, dateCreated, processingTime, status, options, imagesCount, progress } = task;
  return { uuid, name, dateCreated, processingTime, status, options, imagesCount, progress };
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  const match = /^\/task\/([^/]+)\/info$/.exec(url.pathname);
  const task = match && tasks.get(match[1]);
  const body = JSON.stringify(task ? info(task) : { error: 'not found' });
  response.writeHead(200, {
    'Content-Type': 'application/json; charset=utf-8', 'Content-Length': Buffer.byteLength(body),
    'Access-Control-Allow-Origin': '*',
  });
  response.end(body);
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
